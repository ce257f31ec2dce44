"""What the API tells of a job: its status, its changes and the list of jobs."""

from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from broker.store.store import POSTER, SPRITES
from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.job import JobSpec, JobState, Stage
from broker.wire.job_view import JobView
from broker.wire.lora import LoraHashes
from broker.wire.model_profile import ModelProfile
from http_front.models.length_notice import notice_of

MAX_SEQ = 2**53 - 1
"""Largest `seq` of a change; JavaScript rounds larger numbers."""


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


_PUBLISHED = tuple(
    name for name in JobStatus.__struct_fields__ if name in JobView.__struct_fields__
)
"""What a status shows as the broker publishes it."""
_published_of = attrgetter(*_PUBLISHED)


def _status_fields(job: JobView, profile: ModelProfile) -> dict[str, Any]:
    fields = dict(zip(_PUBLISHED, _published_of(job), strict=True))
    model = notice = None
    if job.spec is not None:
        model = job.spec.model or profile.name
        notice = notice_of(job.spec, profile, job.prompt_tokens)
    return fields | {
        "status": job.state,
        "results": _results(job),
        "model": model,
        "notice": notice,
    }


def _results(job: JobView) -> Results | None:
    if job.video is None:
        return None
    return Results(
        video_url=f"/videos/{job.video}",
        video_path=f"videos/{job.video}",
        poster_url=f"/videos/{job.job_id}{POSTER}",
        sprites_url=f"/videos/{job.job_id}{SPRITES}",
    )
