"""What a model takes: the limits and the defaults of the jobs that name it."""

from typing import Literal, get_args

import msgspec

from broker.wire.job import MIN_SIDE_PX, JobSpec, ModelName, Solver, SpecError
from broker.wire.lora import KnownLora, lora_fault

Family = Literal["wan2.1-i2v", "wan2.1-flf2v", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"]


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server needs to know of a loaded model; the defaults are those of Wan2.1 I2V."""

    name: ModelName = "Wan2.1-I2V-14B-720P"
    """By which jobs name it."""
    family: Family = "wan2.1-i2v"
    content_hash: str = ""
    """SHA-256 in hexadecimal of its configs and its weights' names and shapes."""

    last_image: Literal["none", "optional", "required"] = "none"
    """Whether a job may or must give the video's last frame."""
    has_second_guidance: bool = False
    """Whether `guidance_scale_2` applies to it."""

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
    loras: tuple[KnownLora, ...] = ()
    """Those that jobs may take."""
    merged_loras: tuple[KnownLora, ...] = ()
    """Those that are part of the model."""


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
    if spec.guidance_scale_2 is not None and not profile.has_second_guidance:
        raise SpecError(
            "guidance_scale_2",
            f"guidance_scale_2 is {spec.guidance_scale_2}; {profile.name} takes none, because it "
            "has one transformer",
        )
    fault = lora_fault(spec.loras, profile.loras, profile.name)
    if fault is not None:
        raise SpecError("loras", fault)
