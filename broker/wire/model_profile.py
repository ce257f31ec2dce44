"""What a model takes: the limits and the defaults of the jobs that name it."""

from typing import Literal, get_args

import msgspec

from broker.wire.job import MIN_SIDE_PX, JobSpec, ModelName, Solver, SpecError, StepCacheName

Family = Literal["wan2.1-i2v", "wan2.1-flf2v", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"]

EightBit = Literal["fp8", "int8"]
"""Forms of 8-bit numbers that matrices are multiplied in: E4M3, and whole numbers."""

CACHE_FIELDS = ("use_attentioncache", "step_cache")
"""The fields of a job that turn a cache on. Distilled models refuse them: a cache needs steps that
resemble each other."""


class StepCacheOffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step cache that a model offers, because numbers for it are published or none are needed."""

    name: StepCacheName
    threshold: float
    """The default of `step_cache_threshold`."""


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server needs to know of a loaded model; the defaults are those of Wan2.1 I2V."""

    name: ModelName = "Wan2.1-I2V-14B-720P"
    """By which jobs name it."""
    family: Family = "wan2.1-i2v"
    content_hash: str = ""
    """SHA-256 in hexadecimal of its configs and its weights' names and shapes."""
    quantization: EightBit | None = None
    """Form of the 8-bit linears in the transformer's blocks; None if it has none."""

    last_image: Literal["none", "optional", "required"] = "none"
    """Whether a job may or must give the video's last frame."""
    has_second_guidance: bool = False
    """Whether `guidance_scale_2` applies to it."""
    is_distilled: bool = False
    """Whether it makes a video in a few steps and without guidance."""

    side_multiple_px: int = 16
    max_pixels: int = 921_600
    image_size: str = "1280*720"
    """The default."""
    token_side_px: int = 16
    """Pixels of a token's side: of the VAE's latents and of the transformer's patches together."""
    frames_per_second: int = 16
    min_frames: int = 24
    max_frames: int = 121
    trained_frames: int = 81
    """More frames are allowed, with a warning."""
    num_frames: int = 81
    """The default."""

    min_steps: int = 20
    max_steps: int = 100
    infer_steps: int = 30
    """The default."""
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 20.0
    guidance_scale: float = 3.0
    """The default."""
    guidance_scale_2: float | None = None
    """The default; None if it is the value of `guidance_scale`."""
    max_shift: float = 100.0
    sample_shift: float = 5.0
    """The default."""
    solvers: tuple[Solver, ...] = get_args(Solver)
    sample_solver: Solver = "unipc"
    """The default."""
    step_caches: tuple[StepCacheOffer, ...] = (
        StepCacheOffer(name="easycache", threshold=0.05),
        StepCacheOffer(name="magcache", threshold=0.24),
        StepCacheOffer(name="teacache", threshold=0.2),
    )
    """None for models of a few steps, whose steps all differ."""

    def step_cache_threshold(self, spec: JobSpec) -> float | None:
        """Return the threshold of a job's step cache; None without one that is offered."""
        for offer in self.step_caches:
            if offer.name == spec.step_cache:
                wanted = spec.step_cache_threshold
                return offer.threshold if wanted is None else wanted
        return None


def check_last_image(is_given: bool, profile: ModelProfile) -> None:
    """Check whether a job gives the video's last frame as its model takes it.

    Raises:
        SpecError: If it lacks one that is required, or gives one that is not used.
    """
    if is_given and profile.last_image == "none":
        raise SpecError("last_image", f"last_image is given; {profile.name} takes none")
    if not is_given and profile.last_image == "required":
        raise SpecError(
            "last_image", f"last_image is missing; {profile.name} needs the video's last frame"
        )


def check_spec(spec: JobSpec, profile: ModelProfile) -> None:
    """Check the fields of a job against what its model takes.

    Raises:
        SpecError: With the field, its value and the limits.
    """
    if profile.is_distilled:
        _check_distilled(spec, profile)
    sides = (spec.width_px, spec.height_px)
    if any(side % profile.side_multiple_px for side in sides):
        raise SpecError(
            "image_size",
            f"image_size is {spec.image_size}; each side must be a multiple of "
            f"{profile.side_multiple_px} and at least {MIN_SIDE_PX}",
        )
    if (pixels := spec.width_px * spec.height_px) > profile.max_pixels:
        raise SpecError(
            "image_size",
            f"image_size is {spec.image_size}, {pixels} pixels; at most {profile.max_pixels} are "
            f"possible ({profile.image_size})",
        )
    for field, value, least, most in (
        ("num_frames", spec.num_frames, profile.min_frames, profile.max_frames),
        ("infer_steps", spec.infer_steps, profile.min_steps, profile.max_steps),
        (
            "guidance_scale",
            spec.guidance_scale,
            profile.min_guidance_scale,
            profile.max_guidance_scale,
        ),
    ):
        if not least <= value <= most:
            raise SpecError(field, f"{field} is {value}; it must be from {least} to {most}")
    if spec.sample_shift > profile.max_shift:
        raise SpecError(
            "sample_shift",
            f"sample_shift is {spec.sample_shift}; it must be above 0, up to {profile.max_shift}",
        )
    if spec.solver not in profile.solvers:
        raise SpecError(
            "sample_solver",
            f"sample_solver is {spec.sample_solver}; {profile.name} takes "
            f"{', '.join(profile.solvers)}",
        )
    takes_second = profile.has_second_guidance or profile.is_distilled  # which has checked it
    if spec.guidance_scale_2 is not None and not takes_second:
        raise SpecError(
            "guidance_scale_2",
            f"guidance_scale_2 is {spec.guidance_scale_2}; {profile.name} takes none, because it "
            "has one transformer",
        )
    if spec.step_cache is not None and profile.step_cache_threshold(spec) is None:
        offered = ", ".join(offer.name for offer in profile.step_caches)
        raise SpecError(
            "step_cache",
            f"step_cache is {spec.step_cache}; {profile.name} offers {offered or 'none'}",
        )


def _check_distilled(spec: JobSpec, profile: ModelProfile) -> None:
    scales = {"guidance_scale": spec.guidance_scale, "guidance_scale_2": spec.guidance_scale_2}
    for field, scale in scales.items():
        if scale is not None and scale > 1.0:
            raise SpecError(
                field,
                f"{field} is {scale}; {without_guidance(profile)}: leave it out, or give 1",
            )
    for field in CACHE_FIELDS:
        if getattr(spec, field):
            raise SpecError(
                field,
                f"{field} is on; {profile.name} is distilled, and its few steps do not resemble "
                "each other enough for a cache: leave it out",
            )


def without_guidance(profile: ModelProfile) -> str:
    return f"{profile.name} is distilled and works without guidance"
