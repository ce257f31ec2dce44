"""The broker's replies to fronts, on the `requests` socket."""

from urllib.parse import urlsplit

import msgspec

from broker.wire.codec import Codec, Message
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState, Stage
from broker.wire.job_view import JobView
from broker.wire.model_profile import ModelProfile


class Callback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job's end, to be reported to the URL that its client named."""

    job_id: str
    url: str
    owner: str | None
    state: JobState
    ended_at: float
    tries: int
    """How often it was taken before."""
    retry_after_s: float | None = None
    """When it is taken again unless it ends; None if this is the last time."""

    @property
    def party(self) -> str:
        """Whom its call counts against: the owner; without API keys, the receiver's host."""
        return self.owner or urlsplit(self.url).netloc


class RankView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rank, by its latest heartbeat."""

    rank: int
    pid: int
    device: str
    stage: Stage
    step: int
    memory_bytes: int
    beat_age_s: float


class GroupView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One group as the broker knows it."""

    group: str
    epoch: int
    ready: bool
    restarts: int
    job_id: str | None
    ranks: list[RankView]


class ModelView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model that jobs may name."""

    profile: ModelProfile
    num_ready_groups: int
    """0 while all its groups are away; its jobs wait then."""
    num_waiting_jobs: int
    typical_stage_s: dict[str, float] = {}
    """Seconds in each stage of a job with the model's defaults, from those that have run; empty
    until one has."""


class JobAcceptable(Message, frozen=True, kw_only=True):
    """The reply to `OfferJob`: the job would be accepted now."""


class JobFound(Message, frozen=True, kw_only=True):
    """The reply to a request about one job: its state after the request."""

    job: JobView


class JobHistory(Message, frozen=True, kw_only=True):
    """The reply to `WatchJob`: the missed changes; the last one is the present state."""

    jobs: list[JobView]


class JobsListed(Message, frozen=True, kw_only=True):
    """The reply to `ListJobs`."""

    jobs: list[JobView]
    has_more: bool


class JobDeleted(Message, frozen=True, kw_only=True):
    """The reply to `DeleteJob`."""


class HealthFound(Message, frozen=True, kw_only=True):
    """The reply to `GetHealth`."""

    ready: bool
    draining: bool
    queued: int
    running: int
    groups: list[GroupView]
    stopping: int = 0
    """Of the running ones, those whose job is cancelled or deleted: the group is still at it."""


class ModelsFound(Message, frozen=True, kw_only=True):
    """The reply to `ListModels`."""

    models: list[ModelView]
    default: str | None
    """Name of the model of jobs that name none; None before any model is known."""


class ExpiredRemoved(Message, frozen=True, kw_only=True):
    """The reply to `RemoveExpired`."""

    removed: int


class DrainBegun(Message, frozen=True, kw_only=True):
    """The reply to `DrainServer`: no more jobs are started."""

    running: int
    """Jobs that may still finish."""


class CallbackTaken(Message, frozen=True, kw_only=True):
    """The reply to `TakeCallback`; None if no callback is due."""

    callback: Callback | None


class CallbackEnded(Message, frozen=True, kw_only=True):
    """The reply to `EndCallback`."""


class ProbeChecked(Message, frozen=True, kw_only=True):
    """The reply to `FindProbe`."""

    found: bool


class BackedUp(Message, frozen=True, kw_only=True):
    """The reply to `BackUp`: the copy is complete and on disk."""

    num_bytes: int


class Refused(Message, frozen=True, kw_only=True):
    """The reply to a request that was not carried out."""

    code: ErrorCode
    message: str
    field: str | None = None
    retry_after_s: int | None = None


FrontReply = (
    JobAcceptable
    | JobFound
    | JobHistory
    | JobsListed
    | JobDeleted
    | HealthFound
    | ModelsFound
    | ExpiredRemoved
    | DrainBegun
    | CallbackTaken
    | CallbackEnded
    | ProbeChecked
    | BackedUp
    | Refused
)


front_replies: Codec[FrontReply] = Codec(FrontReply)
