"""Narrows the fields of a request to what a model takes: its ranges, choices and defaults."""

from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import Meta

from broker.wire.job import MIN_SIDE_PX, JobSpec, SolverSpelling, solver_of
from broker.wire.lora import MAX_LORAS, LoraChoice
from broker.wire.model_profile import ModelProfile
from broker.wire.spec_check import check_spec, without_guidance

JobBody = TypeVar("JobBody", bound=JobSpec)
SIZE_PATTERN = "^([0-9]{1,5}[*x][0-9]{1,5}|auto|720p|480p)$"
_ABOUT = {
    name: str(kind.get("description") or kind["anyOf"][0].get("description"))
    for name, kind in msgspec.json.schema(JobSpec)["$defs"]["JobSpec"]["properties"].items()
}


class TextLimits(NamedTuple):
    """Limits of an API's texts and seeds that are narrower than those of a job."""

    min_prompt_chars: int = 10
    max_prompt_chars: int = 500
    max_seed: int = 2_147_483_647


@lru_cache(maxsize=128)
def narrowed(
    body_type: type[JobBody], profile: ModelProfile, limits: TextLimits | None = None
) -> type[JobBody]:
    """Return the struct with a model's ranges and defaults; `check_spec` holds for it, too.

    Args:
        body_type: The struct.
        profile: The model's.
        limits: The API's; None leaves the limits of a job.
    """

    def check(body: JobBody) -> None:
        check_spec(body, profile)
        body_type.__post_init__(body)

    made: Any = msgspec.defstruct(
        body_type.__name__,
        [*_fields(profile), *([] if limits is None else _text_fields(limits))],
        bases=(body_type,),
        namespace={"__post_init__": check, "__doc__": body_type.__doc__},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    narrow: type[JobBody] = made
    return narrow


def _fields(profile: ModelProfile) -> list[tuple[str, Any, Any]]:
    reason = {"reason": without_guidance(profile)} if profile.is_distilled else None
    guidance: Any = Annotated[
        float,
        Meta(
            ge=profile.min_guidance_scale,
            le=profile.max_guidance_scale,
            description=_ABOUT["guidance_scale"],
            extra=reason,
        ),
    ]
    guidance_2: Any = Annotated[
        float,
        Meta(
            ge=profile.min_guidance_scale,
            le=profile.max_guidance_scale,
            description=_ABOUT["guidance_scale_2"],
            extra=reason,
        ),
    ]
    frames: Any = Annotated[
        int,
        Meta(
            ge=profile.min_frames,
            le=profile.max_frames,
            description=f"Length of the video; {profile.frames_per_second} frames are one second.",
        ),
    ]
    steps: Any = Annotated[
        int,
        Meta(ge=profile.min_steps, le=profile.max_steps, description=_ABOUT["infer_steps"]),
    ]
    shift: Any = Annotated[
        float, Meta(gt=0.0, le=profile.max_shift, description=_ABOUT["sample_shift"])
    ]
    names = ", ".join(lora.name for lora in profile.loras)
    loras: Any = Annotated[
        tuple[LoraChoice, ...],
        Meta(
            max_length=MAX_LORAS,
            description=_ABOUT["loras"] + (f" This model has {names}." if names else ""),
        ),
    ]
    return [
        ("loras", loras, ()),
        ("guidance_scale_2", guidance_2 | None, profile.guidance_scale_2),
        ("image_size", _size_type(profile), profile.image_size),
        ("num_frames", frames, profile.num_frames),
        ("guidance_scale", guidance, profile.guidance_scale),
        ("infer_steps", steps, profile.infer_steps),
        ("sample_solver", _solver_type(profile), profile.sample_solver),
        ("sample_shift", shift, profile.sample_shift),
    ]


def _text_fields(limits: TextLimits) -> list[tuple[Any, ...]]:
    prompt: Any = Annotated[
        str,
        Meta(
            min_length=limits.min_prompt_chars,
            max_length=limits.max_prompt_chars,
            description=_ABOUT["prompt"],
            examples=["A small sailing boat drifts across a calm bay"],
        ),
    ]
    negative_prompt: Any = Annotated[
        str, Meta(max_length=limits.max_prompt_chars, description=_ABOUT["negative_prompt"])
    ]
    seed: Any = Annotated[int, Meta(ge=0, le=limits.max_seed, description=_ABOUT["seed"])]
    return [
        ("prompt", prompt),
        ("negative_prompt", negative_prompt | None, None),
        ("seed", seed | None, None),
    ]


def _size_type(profile: ModelProfile) -> Any:
    return Annotated[
        str,
        Meta(
            description="Width and height in pixels, `W*H` or `WxH`: each a multiple of "
            f"{profile.side_multiple_px} and at least {MIN_SIDE_PX}, at most {profile.max_pixels} "
            "pixels together. Or `auto`, `720p` or `480p`: the image's aspect ratio, with at most "
            "as many pixels as the model makes, as 1280*720, or as 832*480.",
            extra_json_schema={"pattern": SIZE_PATTERN},
        ),
    ]


def _solver_type(profile: ModelProfile) -> Any:
    return Annotated[
        Literal[_spellings(profile)],
        Meta(description=_ABOUT["sample_solver"]),
    ]


def _spellings(profile: ModelProfile) -> tuple[SolverSpelling, ...]:
    spellings: tuple[SolverSpelling, ...] = get_args(SolverSpelling)
    return tuple(name for name in spellings if solver_of(name) in profile.solvers)
