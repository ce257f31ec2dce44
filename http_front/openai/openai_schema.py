"""The objects of the OpenAI Videos API, made from our jobs."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.wire.errors import ResultWarning
from broker.wire.job import FRAMES_PER_SECOND, JobSpec, JobState, Priority, Stage
from broker.wire.job_view import JobView
from http_front.video.schema import CallbackUrl

MODEL = "wan2.1-i2v-14b-720p"
VideoStatus = Literal["queued", "in_progress", "completed", "failed"]

JOB_NAMES = {
    "prompt": "prompt",
    "size": "image_size",
    "num_frames": "num_frames",
    "num_inference_steps": "infer_steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
    "negative_prompt": "negative_prompt",
    "flow_shift": "sample_shift",
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
_JOB_FIELDS = {field.name: field for field in msgspec.structs.fields(JobSpec)}
_Field = tuple[str, Any] | tuple[str, Any, Any]


def _create_fields() -> list[_Field]:
    fields: list[_Field] = []
    for name, job_name in JOB_NAMES.items():
        field = _JOB_FIELDS[job_name]
        fields.append((name, field.type) if field.required else (name, field.type | None, None))
    return fields


CreateVideo = msgspec.defstruct(
    "CreateVideo",
    [
        *_create_fields(),
        (
            "seconds",
            Annotated[
                str,
                Meta(
                    pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})?$",
                    description=f"Length of the video at {FRAMES_PER_SECOND} frames per second. "
                    "`num_frames` sets it exactly.",
                ),
            ]
            | Annotated[float, Meta(ge=0, le=999)]
            | None,
            None,
        ),
        (
            "fps",
            Annotated[int, Meta(ge=FRAMES_PER_SECOND, le=FRAMES_PER_SECOND)] | None,
            None,
        ),
        ("callback_url", CallbackUrl, None),
        ("priority", Priority, 0),
        (
            "model",
            Annotated[str, Meta(max_length=200, description=f"Ignored; the model is {MODEL}.")]
            | None,
            None,
        ),
    ],
    namespace={"__doc__": "A video to make. The image is given in a separate field."},
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
)


class VideoError(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no video."""

    code: str
    message: str


class Video(msgspec.Struct, frozen=True, kw_only=True):
    """A job. The fields from `queue_position` on are not part of OpenAI's API."""

    id: str
    object: Literal["video"] = "video"
    model: str = MODEL
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

    @classmethod
    def of(cls, job: JobView) -> "Video":
        """Return the video of a job from a broker reply; jobs in events have no spec."""
        assert job.spec is not None, "jobs in replies have a spec"
        is_done = job.state is JobState.SUCCEED
        return cls(
            id=job.job_id,
            status=_STATUS[job.state],
            progress=int(job.progress * 100),
            created_at=int(job.created_at),
            completed_at=int(job.updated_at) if is_done else None,
            expires_at=None if job.expires_at is None else int(job.expires_at),
            error=_error(job),
            prompt=job.spec.prompt,
            seconds=f"{job.spec.num_frames / FRAMES_PER_SECOND:g}",
            size=f"{job.spec.width_px}x{job.spec.height_px}",
            queue_position=job.queue_position,
            eta_s=job.eta_s,
            stage=job.stage,
            priority=job.priority,
            warning=job.warning,
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


class OpenAIErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Details of an error."""

    message: str
    type: str
    param: str | None
    code: str


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
