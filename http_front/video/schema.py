"""Bodies of requests and responses. `field_check` makes the request bodies from input."""

from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.process.installed_version import installed_version
from broker.store.store import POSTER, SPRITES
from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.job import JobSpec, JobState, Priority, Stage
from broker.wire.job_view import JobView
from broker.wire.lora import LoraHashes
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import GroupView, HealthFound, RankView
from http_front.errors import FieldProblem
from http_front.models.length_notice import notice_of

EXAMPLE_IMAGE = (  # 64x64 pixels of one colour
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAFElEQVR42m"
    "P8zwABTAyjjFEGyQwAzx8Bf7QK4E8AAAAASUVORK5CYII="
)

MAX_SEQ = 2**53 - 1
"""Largest `seq` of a change; JavaScript rounds larger numbers."""

MAX_LISTED = 100
"""Maximum number of jobs per page of the list."""

CallbackUrl = (
    Annotated[
        str,
        Meta(
            min_length=1,
            max_length=2048,
            description="URL that gets a signed POST when the job ends.",
            extra_json_schema={"pattern": "^https?://"},
        ),
    ]
    | None
)


LastImageUrl = (
    Annotated[
        str,
        Meta(
            min_length=1,
            description="URL of the video's last frame, for models that take one; otherwise as "
            "`image_url`.",
            extra_json_schema={"pattern": "^(https?://|data:image/)"},
        ),
    ]
    | None
)

_SPEC = attrgetter(*JobSpec.__struct_fields__)


class SubmitByFile(JobSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to make from an uploaded image."""

    last_image_url: LastImageUrl = None
    callback_url: CallbackUrl = None
    priority: Priority = 0

    @property
    def spec(self) -> JobSpec:
        return JobSpec(**dict(zip(JobSpec.__struct_fields__, _SPEC(self), strict=True)))


class SubmitByUrl(SubmitByFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to make from an image at a URL."""

    image_url: Annotated[
        str,
        Meta(
            min_length=1,
            description="Image URL: http or https with at most 2048 characters, or a `data:` URL. "
            "JPEG, PNG, WebP, GIF (first frame) or AVIF; 64 to 8192 pixels per side.",
            extra_json_schema={"pattern": "^(https?://|data:image/)", "examples": [EXAMPLE_IMAGE]},
        ),
    ]


class JobRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The id of a job."""

    # Clients use this spelling.
    requestId: Annotated[str, Meta(description="The id from the response to the submit request.")]


class KeepVideo(JobRef, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to keep, or to let expire again."""

    keep: Annotated[
        bool, Meta(description="false lets it expire again, as if the job ended now.")
    ] = True


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a video is kept now."""

    kept: bool
    expires_at: float | None
    """When the job and its files will be removed; null while it is kept."""


class Submitted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job is stored and will run."""

    requestId: str
    notice: Annotated[
        str | None,
        Meta(
            description="What to know of the video, such as that it is longer than those that "
            "the model was trained with; left out if there is nothing."
        ),
    ] = None


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The job has ended; its status is final."""

    status: JobState


class WebhookSecret(msgspec.Struct, frozen=True, kw_only=True):
    """The secret that verifies the signatures of the caller's callbacks."""

    secret: str


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """The job and its files are deleted."""

    deleted: Literal[True] = True


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of the video and of stills from it."""

    video_url: str
    video_path: str
    poster_url: str
    """One frame, as WebP."""
    sprites_url: str
    """Ten frames in two rows of five, as WebP."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State and progress of a job."""

    status: JobState
    reason: str | None
    """Why the job failed; before, what it waits for, such as a group with its model."""
    error_code: ErrorCode | None
    """What kind of failure it was; null unless it failed."""
    results: Results | None
    warning: ResultWarning | None
    """What looks wrong with the video: `single_colour` if most frames are black or of another
    single colour, and the image is not."""
    queue_position: int | None
    progress: Annotated[float, Meta(ge=0.0, le=1.0)]
    created_at: float
    updated_at: float
    expires_at: float | None
    """When the job and its files will be removed; null until it ends, and while it is kept."""
    kept: bool
    """Whether its video is kept whatever its age."""
    stage: Stage | None
    step: int
    num_steps: int
    skipped_steps: tuple[int, ...]
    """The denoising steps, from 0, that its step cache skips, as far as they are known."""
    eta_s: float | None
    attempt: int
    stage_s: dict[str, float]
    """Seconds that the latest attempt spent in each stage, and in the queue before it."""
    priority: int
    model: str | None
    """Name of its model."""
    model_hash: str | None
    """Content hash of the model that runs the latest attempt, or that made the video."""
    lora_hashes: LoraHashes
    """By name of each of its LoRAs: SHA-256 of the files when the job was accepted."""
    notice: str | None
    """What to know of the video, such as that it is longer than those that the model was trained
    with."""

    @classmethod
    def of(cls, job: JobView, profile: ModelProfile) -> "JobStatus":
        """Return the status of a job from a broker reply; `profile` is that of its model."""
        return cls(**_status_fields(job, profile))


class JobUpdate(JobStatus, frozen=True, kw_only=True):
    """A job after one of its changes; `seq` numbers the changes."""

    requestId: str
    seq: int

    @classmethod
    def of(cls, job: JobView, profile: ModelProfile) -> "JobUpdate":
        return cls(**_status_fields(job, profile), requestId=job.job_id, seq=job.seq)


class JobEntry(JobStatus, frozen=True, kw_only=True):
    """A job in the list."""

    requestId: str
    settings: JobSpec | None
    """The settings from the submit request."""
    has_last_image: bool = False
    """Whether the request had a `last_image`."""

    @classmethod
    def of(cls, job: JobView, profile: ModelProfile) -> "JobEntry":
        return cls(
            **_status_fields(job, profile),
            requestId=job.job_id,
            settings=job.spec,
            has_last_image=job.last_image is not None,
        )


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs, newest first by default."""

    jobs: list[JobEntry]
    has_more: bool
    """Whether more jobs follow; to get them, pass the last id of this page as `after`."""


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Details of an error."""

    code: ErrorCode
    message: str
    field: str | None = None
    fields: list[FieldProblem] | msgspec.UnsetType = msgspec.UNSET
    """Every wrong field, if there are several; `field` is the first."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error response."""

    error: ErrorDetail


class RankHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One rank at its last heartbeat."""

    group: str
    rank: int
    pid: int
    device: str
    stage: Stage
    step: int
    memory_bytes: int
    beat_age_s: float
    restarts: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the server accepts and runs jobs now."""

    status: Literal["healthy", "unhealthy", "draining"]
    rank: int = 0
    total_tasks: int = 0
    pipeline_world_size: int = 0
    pipeline_rank: int = 0
    queued: int = 0
    running: int = 0
    stopping: int = 0
    """Of the running ones, those whose job is cancelled or deleted: its group still has to stop."""
    ready_groups: int = 0
    ranks: list[RankHealth] = []
    version: str | None = None
    """Of the server; null for clients without a key, where keys are in use."""

    @classmethod
    def of(cls, found: HealthFound) -> "Health":
        ranks = [_rank_health(group, rank) for group in found.groups for rank in group.ranks]
        healthy: Literal["healthy", "unhealthy"] = "healthy" if found.ready else "unhealthy"
        return cls(
            status="draining" if found.draining else healthy,
            total_tasks=found.queued + found.running,
            pipeline_world_size=len(ranks),
            queued=found.queued,
            running=found.running,
            stopping=found.stopping,
            ready_groups=sum(group.ready for group in found.groups),
            ranks=ranks,
            version=installed_version(),
        )


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The front responds. This says nothing about the broker or the ranks."""

    status: Literal["alive"] = "alive"


class Draining(msgspec.Struct, frozen=True, kw_only=True):
    """The server starts no more jobs and stops when the running ones finish or time out."""

    status: Literal["draining"] = "draining"
    running: Annotated[int, Meta(description="Jobs that may still finish.")]


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Number of expired jobs that were removed."""

    removed: int


def _rank_health(group: GroupView, rank: RankView) -> RankHealth:
    return RankHealth(
        group=group.group,
        rank=rank.rank,
        pid=rank.pid,
        device=rank.device,
        stage=rank.stage,
        step=rank.step,
        memory_bytes=rank.memory_bytes,
        beat_age_s=rank.beat_age_s,
        restarts=group.restarts,
    )


def _status_fields(job: JobView, profile: ModelProfile) -> dict[str, Any]:
    results = model = notice = None
    if job.spec is not None:
        model = job.spec.model or profile.name
        notice = notice_of(job.spec, profile, job.prompt_tokens)
    if job.video is not None:
        results = Results(
            video_url=f"/videos/{job.video}",
            video_path=f"videos/{job.video}",
            poster_url=f"/videos/{job.job_id}{POSTER}",
            sprites_url=f"/videos/{job.job_id}{SPRITES}",
        )
    return {
        "status": job.state,
        "reason": job.reason,
        "error_code": job.error_code,
        "results": results,
        "warning": job.warning,
        "queue_position": job.queue_position,
        "progress": job.progress,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "expires_at": job.expires_at,
        "kept": job.kept,
        "stage": job.stage,
        "step": job.step,
        "num_steps": job.num_steps,
        "skipped_steps": job.skipped_steps,
        "eta_s": job.eta_s,
        "attempt": job.attempt,
        "stage_s": job.stage_s,
        "priority": job.priority,
        "model": model,
        "model_hash": job.model_hash,
        "lora_hashes": job.lora_hashes,
        "notice": notice,
    }
