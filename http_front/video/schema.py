"""Bodies of requests and answers; `field_check` turns input into them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.wire.job import JobSpec, JobState, Priority, Stage
from broker.wire.protocol import ErrorCode, GroupView, HealthFound, JobView, RankView

EXAMPLE_IMAGE = (  # 64 by 64 pixels of one colour
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAFElEQVR42m"
    "P8zwABTAyjjFEGyQwAzx8Bf7QK4E8AAAAASUVORK5CYII="
)

MAX_SEQ = 2**53 - 1
"""The greatest number of a change: beyond it, JavaScript would round it."""

MAX_LISTED = 100
"""Jobs in a page of the list."""

CallbackUrl = (
    Annotated[
        str,
        Meta(
            min_length=1,
            max_length=2048,
            description="Where to tell of the job's end, by a POST that is signed.",
            extra_json_schema={"pattern": "^https?://"},
        ),
    ]
    | None
)


class SubmitByFile(JobSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to make from an uploaded image."""

    callback_url: CallbackUrl = None
    priority: Priority = 0

    @property
    def spec(self) -> JobSpec:
        """The job alone."""
        fields = {name: getattr(self, name) for name in JobSpec.__struct_fields__}
        return JobSpec(**fields)


class SubmitByUrl(SubmitByFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to make from an image at a URL."""

    image_url: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where the image is: an http or https URL of at most 2048 characters, or "
            "a `data:` URL. JPEG, PNG or WebP; 64 to 8192 pixels a side.",
            extra_json_schema={"pattern": "^(https?://|data:image/)", "examples": [EXAMPLE_IMAGE]},
        ),
    ]


class JobRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names a job."""

    # The spelling is that of clients.
    requestId: Annotated[str, Meta(description="What the submit request was answered with.")]


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The job is stored and will run."""

    requestId: str


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The job has ended; nothing will change that."""

    status: JobState


class WebhookSecret(msgspec.Struct, frozen=True, kw_only=True):
    """What the signatures of a caller's callbacks are checked with."""

    secret: str


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """The job and its files are gone."""

    deleted: Literal[True] = True


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Where the video is, and stills from it."""

    video_url: str
    video_path: str
    poster_url: str
    """One frame, as WebP."""
    sprites_url: str
    """Ten frames in two rows of five, as WebP."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a job is."""

    status: JobState
    reason: str | None
    """Why it has failed; while it runs, what it waits for, as room on the disk."""
    results: Results | None
    queue_position: int | None
    progress: Annotated[float, Meta(ge=0.0, le=1.0)]
    created_at: float
    updated_at: float
    stage: Stage | None
    step: int
    num_steps: int
    eta_s: float | None
    attempt: int
    stage_s: dict[str, float]
    """Seconds that the latest attempt has spent in each stage, and before it in the queue."""
    priority: int

    @classmethod
    def of(cls, job: JobView) -> "JobStatus":
        """Return what clients are told of a job."""
        return cls(**_told(job))


class JobUpdate(JobStatus, frozen=True, kw_only=True):
    """How a job is after one of its changes; `seq` numbers the changes."""

    requestId: str
    seq: int

    @classmethod
    def of(cls, job: JobView) -> "JobUpdate":
        """Return what watchers are told of a change."""
        return cls(**_told(job), requestId=job.job_id, seq=job.seq)


class JobEntry(JobStatus, frozen=True, kw_only=True):
    """A job in the list."""

    requestId: str
    settings: JobSpec | None
    """What was asked for."""
    expires_at: float | None
    """When job and files will be removed; null while it has not ended."""

    @classmethod
    def of(cls, job: JobView) -> "JobEntry":
        """Return what the list tells of a job."""
        return cls(**_told(job), requestId=job.job_id, settings=job.spec, expires_at=job.expires_at)


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the jobs, the newest first."""

    jobs: list[JobEntry]
    has_more: bool
    """Whether older jobs follow: ask for those after the last of this page."""


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What was wrong."""

    code: ErrorCode
    message: str
    field: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal."""

    error: ErrorDetail


class RankHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One rank, as its last beat told."""

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
    """Whether jobs are served now."""

    status: Literal["healthy", "unhealthy", "draining"]
    rank: int = 0
    total_tasks: int = 0
    pipeline_world_size: int = 0
    pipeline_rank: int = 0
    queued: int = 0
    running: int = 0
    ready_groups: int = 0
    ranks: list[RankHealth] = []

    @classmethod
    def of(cls, told: HealthFound) -> "Health":
        """Return what clients are told of queue and groups."""
        ranks = [_rank_health(group, rank) for group in told.groups for rank in group.ranks]
        healthy: Literal["healthy", "unhealthy"] = "healthy" if told.ready else "unhealthy"
        return cls(
            status="draining" if told.draining else healthy,
            total_tasks=told.queued + told.running,
            pipeline_world_size=len(ranks),
            queued=told.queued,
            running=told.running,
            ready_groups=sum(group.ready for group in told.groups),
            ranks=ranks,
        )


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The front answers; of the rest this says nothing."""

    status: Literal["alive"] = "alive"


class Draining(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing more is started; the server ends when nothing runs, or its time for that is over."""

    status: Literal["draining"] = "draining"
    running: Annotated[int, Meta(description="Jobs that may still finish.")]


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """How many expired jobs were removed."""

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


def _told(job: JobView) -> dict[str, Any]:
    results = None
    if job.video is not None:
        results = Results(
            video_url=f"/videos/{job.video}",
            video_path=f"videos/{job.video}",
            poster_url=f"/videos/{job.job_id}.webp",
            sprites_url=f"/videos/{job.job_id}.sprites.webp",
        )
    return {
        "status": job.state,
        "reason": job.reason,
        "results": results,
        "queue_position": job.queue_position,
        "progress": job.progress,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "stage": job.stage,
        "step": job.step,
        "num_steps": job.num_steps,
        "eta_s": job.eta_s,
        "attempt": job.attempt,
        "stage_s": job.stage_s,
        "priority": job.priority,
    }
