"""Requests of fronts to the broker, on the `requests` socket.

Requests about jobs carry an `owner`: another owner's job is answered like an unknown one. None
stands for an administrator, and for every client where no API keys are in use.
"""

from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_args

import msgspec

from broker.wire.codec import Codec, Message
from broker.wire.job import JobSpec, JobState, Priority
from broker.wire.replies import (
    BackedUp,
    CallbackEnded,
    CallbackTaken,
    DrainBegun,
    ExpiredRemoved,
    HealthFound,
    JobAcceptable,
    JobDeleted,
    JobFound,
    JobHistory,
    JobsListed,
    ModelsFound,
    ProbeChecked,
)

ReplyT = TypeVar("ReplyT", covariant=True)


class Request(Message, Generic[ReplyT], frozen=True, kw_only=True):
    """Base of every request; it names its reply, apart from `Refused`."""


@cache
def reply_type(request_type: type[Request[ReplyT]]) -> Any:
    (base,) = vars(request_type)["__orig_bases__"]
    (reply,) = get_args(base)
    return reply


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client's name for its request, so that a repeated request makes no second job."""

    key: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,255}\Z")]
    request_hash: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """SHA-256 of the whole request."""


class OfferJob(Request[JobFound | JobAcceptable], frozen=True, kw_only=True):
    """Ask whether a job would be accepted now, before its image is processed.

    The reply is `JobFound` if the idempotency key has a job already.
    """

    spec: JobSpec
    idempotency_key: IdempotencyKey | None = None
    owner: str | None = None
    queue_share: int | None = None


class SubmitJob(Request[JobFound], frozen=True, kw_only=True):
    """Accept a job. The front chooses the id, so that a repeated message makes no second job.

    The reply names an earlier job if its idempotency key is the same. An unused image is removed.
    """

    job_id: str
    spec: JobSpec
    image: str
    """File name in the inputs folder."""
    last_image: str | None = None
    """File name of the video's last frame, if the job gives one."""
    idempotency_key: IdempotencyKey | None = None
    owner: str | None = None
    """Name of the API key that submits it; None where no keys are in use."""
    queue_share: int | None = None
    """How many jobs of the owner may wait."""
    callback_url: str | None = None
    """The URL that is called when the job ends."""
    priority: Priority = 0


class GetJob(Request[JobFound], frozen=True, kw_only=True):
    """Return a job."""

    job_id: str
    owner: str | None = None


class WatchJob(Request[JobHistory], frozen=True, kw_only=True):
    """Return every change of a job after `after_seq` that is still known, oldest first."""

    job_id: str
    after_seq: int
    owner: str | None = None


class ListJobs(Request[JobsListed], frozen=True, kw_only=True):
    """Return a page of the jobs, newest first."""

    limit: int = 100
    after: str | None = None
    """The last job of the page before; None for the first page."""
    oldest_first: bool = False
    states: tuple[JobState, ...] = ()
    """Only jobs in one of these states; empty for any."""
    words: tuple[str, ...] = ()
    """Only jobs with each of these in what was submitted, of the next thousands of jobs."""
    kept: bool = False
    """Only jobs that are kept whatever their age."""
    owner: str | None = None


class CancelJob(Request[JobFound], frozen=True, kw_only=True):
    """Cancel a job; the reply is final."""

    job_id: str
    owner: str | None = None


class DeleteJob(Request[JobDeleted], frozen=True, kw_only=True):
    """Remove a job and its files; one that has not ended is cancelled first."""

    job_id: str
    owner: str | None = None


class KeepJob(Request[JobFound], frozen=True, kw_only=True):
    """Keep a job that has a video whatever its age, or let it expire again."""

    job_id: str
    keep: bool
    owner: str | None = None


class GetHealth(Request[HealthFound], frozen=True, kw_only=True):
    """Return the state of groups and queue."""


class ListModels(Request[ModelsFound], frozen=True, kw_only=True):
    """Return the models that jobs may name, and the default one."""


class RemoveExpired(Request[ExpiredRemoved], frozen=True, kw_only=True):
    """Remove every expired job now."""


class DrainServer(Request[DrainBegun], frozen=True, kw_only=True):
    """Start no more jobs, and have every launcher stop as on SIGTERM."""


class TakeCallback(Request[CallbackTaken], frozen=True, kw_only=True):
    """Take a callback that is due; the front that asks makes it."""

    busy: tuple[str, ...] = ()
    """Parties whose callbacks must wait, because too many of them are being made."""


class EndCallback(Request[CallbackEnded], frozen=True, kw_only=True):
    """Report that a callback was received, so that it is not made again."""

    job_id: str


class FindProbe(Request[ProbeChecked], frozen=True, kw_only=True):
    """Return whether a file written by a joining machine is in the broker's store.

    It lies where videos are written; the machine chooses its name.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\.probe\Z")]


class BackUp(Request[BackedUp], frozen=True, kw_only=True):
    """Write a consistent copy of the journal to a file that does not exist yet."""

    path: str
    """Absolute, since the broker has a working directory of its own."""


FrontRequest = (
    OfferJob
    | SubmitJob
    | GetJob
    | WatchJob
    | ListJobs
    | CancelJob
    | DeleteJob
    | KeepJob
    | GetHealth
    | ListModels
    | RemoveExpired
    | DrainServer
    | TakeCallback
    | EndCallback
    | FindProbe
    | BackUp
)


front_requests: Codec[FrontRequest] = Codec(FrontRequest)
