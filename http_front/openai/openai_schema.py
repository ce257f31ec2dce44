"""The objects of the OpenAI Videos API, made from our jobs."""

import time
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from broker.wire.errors import ResultWarning
from broker.wire.job import JobSpec, JobState, Priority, SpecError, Stage
from broker.wire.job_view import JobView
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import ModelsFound
from http_front.errors import FieldProblem
from http_front.models.length_notice import notice_of
from http_front.models.profile_fields import narrowed
from http_front.video.allowed_values import WORDS
from http_front.video.schema import CallbackUrl

ServedName = (
    Annotated[
        str,
        Meta(
            max_length=200,
            description="Name of a served model, in any case, also after `provider/`; the default "
            "model if left out, and for `sora` names.",
        ),
    ]
    | None
)
VideoStatus = Literal["queued", "in_progress", "completed", "failed"]

JOB_NAMES = {
    "prompt": "prompt",
    "size": "image_size",
    "num_frames": "num_frames",
    "num_inference_steps": "infer_steps",
    "guidance_scale": "guidance_scale",
    "guidance_scale_2": "guidance_scale_2",
    "guidance_end": "guidance_end",
    "step_cache": "step_cache",
    "step_cache_threshold": "step_cache_threshold",
    "seed": "seed",
    "negative_prompt": "negative_prompt",
    "flow_shift": "sample_shift",
    "loras": "loras",
}
"""Maps field names of this API to those of `JobSpec`."""
OPENAI_NAMES = {job_name: name for name, job_name in JOB_NAMES.items()}

_STATUS: dict[JobState, VideoStatus] = {
    JobState.IN_QUEUE: "queued",
    JobState.IN_PROGRESS: "in_progress",
    JobState.SUCCEED: "completed",
    JobState.FAILED: "failed",
    # OpenAI has no status for cancelled, and clients stop polling at an unknown status.
    JobState.CANCELLED: "failed",
}
STATES = {
    status: tuple(state for state, shown in _STATUS.items() if shown == status)
    for status in get_args(VideoStatus)
}
"""The states of the jobs with each status."""
_STARTED_AT = int(time.time())
_Field = tuple[str, Any] | tuple[str, Any, Any]


@lru_cache(maxsize=128)
def create_type(profile: ModelProfile) -> type[msgspec.Struct]:
    """Return the struct of a create request for a model; a field left out is None."""

    def check(body: msgspec.Struct) -> None:
        job_spec(msgspec.structs.asdict(body), profile)

    return msgspec.defstruct(
        "CreateVideo",
        [
            *_job_fields(profile),
            ("seconds", _seconds_type(profile), None),
            ("fps", _fps_type(profile), None),
            ("callback_url", CallbackUrl, None),
            ("priority", Priority, 0),
            ("model", ServedName, None),
        ],
        namespace={
            "__doc__": "A video to make. The images are given in separate fields.",
            "__post_init__": check,
        },
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def job_spec(body: dict[str, Any], profile: ModelProfile) -> JobSpec:
    """Return the job of a create request.

    Raises:
        SpecError: If its fields contradict each other or the model's limits.
    """
    renamed = {JOB_NAMES[name]: value for name, value in body.items() if name in JOB_NAMES}
    given = {name: value for name, value in renamed.items() if value is not None}
    if body["seconds"] is not None and "num_frames" not in given:
        given["num_frames"] = _num_frames(body["seconds"], profile)
    spec_type: type[JobSpec] = narrowed(JobSpec, profile)
    try:
        return spec_type(**given)
    except SpecError as error:
        # Use the field name that this client knows.
        name = OPENAI_NAMES.get(error.field, error.field)
        raise SpecError(name, error.message.replace(error.field, name)) from error


def _num_frames(seconds: str | float, profile: ModelProfile) -> int:
    fps, least, most = profile.frames_per_second, profile.min_frames, profile.max_frames
    num_frames = round(float(seconds) * fps)
    if not least <= num_frames <= most:
        raise SpecError(
            "seconds",
            f"seconds is {float(seconds):g}; it must be from {least / fps:g} to {most / fps:g} "
            f"(num_frames from {least} to {most})",
        )
    return num_frames


def _job_fields(profile: ModelProfile) -> list[_Field]:
    job_fields = {f.name: f for f in msgspec.structs.fields(narrowed(JobSpec, profile))}
    fields: list[_Field] = []
    for name, job_name in JOB_NAMES.items():
        field = job_fields[job_name]
        fields.append((name, field.type) if field.required else (name, field.type | None, None))
    return fields


def _seconds_type(profile: ModelProfile) -> Any:
    about = (
        f"Length of the video at {profile.frames_per_second} frames per second. `num_frames` sets "
        "it exactly."
    )
    text: Any = Annotated[
        str,
        Meta(
            pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})?$",
            description=about,
            extra={WORDS: "seconds such as 4"},
        ),
    ]
    return text | Annotated[float, Meta(ge=0, le=999)] | None


def _fps_type(profile: ModelProfile) -> Any:
    fps: Any = Annotated[int, Meta(ge=profile.frames_per_second, le=profile.frames_per_second)]
    return fps | None


class VideoError(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no video."""

    code: str
    message: str


class Video(msgspec.Struct, frozen=True, kw_only=True):
    """A job. The fields from `queue_position` on are not part of OpenAI's API."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: VideoStatus
    progress: Annotated[int, Meta(ge=0, le=100)]
    created_at: int
    completed_at: int | None
    expires_at: int | None
    error: VideoError | None
    prompt: str | None
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    queue_position: int | None
    eta_s: float | None
    stage: Stage | None
    priority: int
    warning: ResultWarning | None
    """What looks wrong with the video."""
    notice: str | None
    """What to know of the video, such as that it is longer than those that the model was trained
    with."""

    @classmethod
    def of(cls, job: JobView, profile: ModelProfile) -> "Video":
        """Return the video of a job from a broker reply; jobs in events have no spec.

        Args:
            job: The job.
            profile: That of its model.
        """
        assert job.spec is not None, "jobs in replies have a spec"
        is_done = job.state is JobState.SUCCEED
        return cls(
            id=job.job_id,
            model=job.spec.model or profile.name,
            status=_STATUS[job.state],
            progress=int(job.progress * 100),
            created_at=int(job.created_at),
            completed_at=int(job.updated_at) if is_done else None,
            expires_at=None if job.expires_at is None else int(job.expires_at),
            error=_error(job),
            prompt=job.spec.prompt,
            seconds=f"{job.spec.num_frames / profile.frames_per_second:g}",
            size=f"{job.spec.width_px}x{job.spec.height_px}",
            queue_position=job.queue_position,
            eta_s=job.eta_s,
            stage=job.stage,
            priority=job.priority,
            warning=job.warning,
            notice=notice_of(job.spec, profile, job.prompt_tokens),
        )


class VideoList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    """The `after` of the next page."""
    has_more: bool


class VideoDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """The job and its files are deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Model(ModelProfile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A served model. The fields from `default` on are not part of OpenAI's API."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When this front started."""
    owned_by: str = "wan-ranks"
    default: bool
    """Whether jobs that name no model get this one."""
    ready: bool
    """Whether a group of it is ready; otherwise its jobs wait."""
    waiting: int
    """How many jobs wait for it."""
    typical_stage_s: dict[str, float]
    """Seconds in each stage of a job with the defaults, measured; empty before the first job."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The models that jobs may name."""

    object: Literal["list"] = "list"
    data: list[Model]

    @classmethod
    def of(cls, found: ModelsFound) -> "ModelList":
        return cls(
            data=[
                Model(
                    **msgspec.structs.asdict(view.profile),
                    id=view.profile.name,
                    created=_STARTED_AT,
                    default=view.profile.name == found.default,
                    ready=view.num_ready_groups > 0,
                    waiting=view.num_waiting_jobs,
                    typical_stage_s=view.typical_stage_s,
                )
                for view in found.models
            ]
        )


class OpenAIErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Details of an error."""

    message: str
    type: str
    param: str | None
    code: str
    fields: list[FieldProblem] | msgspec.UnsetType = msgspec.UNSET
    """Every wrong field, if there are several; `param` is the first."""


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error response."""

    error: OpenAIErrorDetail


def _error(job: JobView) -> VideoError | None:
    if job.state is JobState.CANCELLED:
        return VideoError(code="cancelled", message="the job was cancelled")
    if job.state is not JobState.FAILED:
        return None
    code = "internal" if job.error_code is None else job.error_code.value
    return VideoError(code=code, message=job.reason or "the job failed")
