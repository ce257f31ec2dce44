"""Checks the fields of a job against what its model takes."""

from broker.wire.job import MIN_SIDE_PX, JobSpec, SpecError
from broker.wire.lora import lora_fault
from broker.wire.model_profile import ModelProfile

CACHE_FIELDS = ("use_attentioncache", "step_cache")
"""The fields of a job that turn a cache on. Distilled models refuse them: a cache needs steps that
resemble each other."""


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
    _check_size(spec, profile)
    _check_ranges(spec, profile)
    _check_choices(spec, profile)
    fault = lora_fault(spec.loras, profile.loras, profile.name)
    if fault is not None:
        raise SpecError("loras", fault)


def _check_size(spec: JobSpec, profile: ModelProfile) -> None:
    sides = (spec.width_px, spec.height_px)
    if any(side % profile.side_multiple_px for side in sides):
        raise SpecError(
            "image_size",
            f"image_size is {spec.image_size}; each side must be a multiple of "
            f"{profile.side_multiple_px} and at least {MIN_SIDE_PX}",
        )
    if (pixels := sides[0] * sides[1]) > profile.max_pixels:
        raise SpecError(
            "image_size",
            f"image_size is {spec.image_size}, {pixels} pixels; at most {profile.max_pixels} are "
            f"possible ({profile.image_size})",
        )


def _check_ranges(spec: JobSpec, profile: ModelProfile) -> None:
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


def _check_choices(spec: JobSpec, profile: ModelProfile) -> None:
    """Check the fields that some models do not have, or only with other values."""
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
