"""Narrows the fields of a request to what a model takes: its ranges, choices and defaults."""

from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from broker.wire.job import MIN_SIDE_PX, JobSpec, SolverSpelling, solver_of
from broker.wire.lora import MAX_LORAS, LoraChoice
from broker.wire.model_profile import ModelProfile, check_spec

JobBody = TypeVar("JobBody", bound=JobSpec)
_ABOUT = {
    name: str(kind.get("description") or kind["anyOf"][0].get("description"))
    for name, kind in msgspec.json.schema(JobSpec)["$defs"]["JobSpec"]["properties"].items()
}


@lru_cache(maxsize=128)
def narrowed(body_type: type[JobBody], profile: ModelProfile) -> type[JobBody]:
    """Return the struct with a model's ranges and defaults; `check_spec` holds for it, too."""

    def check(body: JobBody) -> None:
        check_spec(body, profile)
        body_type.__post_init__(body)

    made: Any = msgspec.defstruct(
        body_type.__name__,
        _fields(profile),
        bases=(body_type,),
        namespace={"__post_init__": check, "__doc__": body_type.__doc__},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    narrow: type[JobBody] = made
    return narrow


def _fields(profile: ModelProfile) -> list[tuple[str, Any, Any]]:
    guidance: Any = Annotated[
        float,
        Meta(
            ge=profile.min_guidance_scale,
            le=profile.max_guidance_scale,
            description=_ABOUT["guidance_scale"],
        ),
    ]
    guidance_2: Any = Annotated[
        float,
        Meta(
            ge=profile.min_guidance_scale,
            le=profile.max_guidance_scale,
            description=_ABOUT["guidance_scale_2"],
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


def _size_type(profile: ModelProfile) -> Any:
    return Annotated[
        str,
        Meta(
            pattern=r"^[0-9]{1,5}[*x][0-9]{1,5}$",
            description="Width and height in pixels, `W*H` or `WxH`: each a multiple of "
            f"{profile.side_multiple_px} and at least {MIN_SIDE_PX}, at most {profile.max_pixels} "
            "pixels together.",
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
