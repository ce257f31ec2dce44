"""Every message on a socket: structs, unions, codecs, `ErrorCode`, `ProtocolError`.

One union and one codec per direction. A message travels as two parts, the protocol version and the
body in MessagePack; on the `requests` socket a correlation id stands between them, on `events` the
job id stands before them as the topic. Files never travel, only their names.
"""

from enum import Enum
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from broker.wire.job import GroupShape, JobSpec, JobState, Priority, Stage

PROTOCOL_VERSION = b"1"
REGISTER_EVERY_S = 2.0
MAX_PREVIEW_BYTES = 1 << 16

Message = TypeVar("Message")


class ProtocolError(Exception):
    """Raised when a message cannot be decoded."""


class ErrorCode(Enum):
    """Why something was refused or failed; the values are those that clients see."""

    INVALID_BODY = "invalid_body"  # neither JSON nor a form, or of the wrong shape
    INVALID_FIELD = "invalid_field"  # unknown name, wrong type, out of range
    UNSUPPORTED_LAYOUT = "unsupported_layout"  # no group can run the job
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    IMAGE_URL_FORBIDDEN = "image_url_forbidden"  # scheme, port, address, characters
    IMAGE_UNAVAILABLE = "image_unavailable"  # the other server did not deliver it
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_INVALID = "image_invalid"  # not a usable picture
    IDEMPOTENCY_KEY_REUSE = "idempotency_key_reuse"  # the same key with another request
    JOB_NOT_FOUND = "job_not_found"  # or another key's job, which looks the same
    JOB_FINISHED = "job_finished"  # too late to cancel
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"  # too many requests with one key
    STORAGE_FULL = "storage_full"
    UNAVAILABLE = "unavailable"  # the broker does not reply, or drains
    NOT_FOUND = "not_found"  # no such route or file
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNAUTHORIZED = "unauthorized"  # no API key, or a wrong one
    FORBIDDEN = "forbidden"  # wrong Host or Origin, or a key that may not do this
    INTERNAL = "internal"  # a bug; the log says more
    RUN_FAILED = "run_failed"  # the ranks failed during the attempt
    OUT_OF_MEMORY = "out_of_memory"  # of an accelerator
    SAVE_FAILED = "save_failed"  # the video could not be written
    GROUP_LOST = "group_lost"  # its group died in every attempt


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base of every message: frozen, tagged with its class name, strict."""


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The right of one life of a group to run one attempt of a job: the fencing token."""

    group: str
    epoch: int
    job_id: str
    attempt: int
    """Rises with every lease of the job, so that no lease is granted twice."""


class JobFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the broker stores of a job and publishes as it is: the one list of these fields."""

    job_id: str
    created_at: float
    updated_at: float
    seq: int = 1
    """Rises with every change."""
    state: JobState = JobState.IN_QUEUE
    progress: float = 0.0
    """From 0 to 1."""
    attempt: int = 0
    """Number of the latest attempt."""
    stage: Stage | None = None
    step: int = 0
    num_steps: int = 0
    """Where the attempt is."""
    reason: str | None = None
    """Why the job failed; while it runs, what it waits for."""
    error_code: ErrorCode | None = None
    video: str | None = None
    """File name in the videos folder, once the state is `Succeed`."""
    priority: int = 0
    owner: str | None = None
    """Name of the API key that submitted it, for the fronts; None where no keys are in use."""
    stage_s: dict[str, float] = {}
    """Seconds that the latest attempt has spent in each stage, and before it in the queue."""


class JobView(JobFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job at one moment, as fronts receive it."""

    eta_s: float | None = None
    """Seconds until the job ends, as far as earlier jobs tell."""
    queue_position: int | None = None
    """1 is next."""
    spec: JobSpec | None = None
    """In replies only, since it never changes."""
    expires_at: float | None = None
    """When an ended job will be removed; in replies only."""


class Callback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job's end, to be reported to the URL that its client named."""

    job_id: str
    url: str
    owner: str | None
    state: JobState
    ended_at: float
    tries: int
    """How often it was taken before."""


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


# --- requests: front to broker -------------------------------------------------------------------
#
# Those about jobs carry an `owner`: another owner's job is answered as one that there is not. None
# is somebody who may see every job, which is everybody where no API keys are in use.


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client's name for its request, so that a repeated request makes no second job."""

    key: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,255}\Z")]
    request_hash: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """SHA-256 of the whole request."""


class OfferJob(_Struct, frozen=True, kw_only=True):
    """Ask whether a job would be accepted now, before its image is processed.

    The reply is `JobFound` if the idempotency key has a job already.
    """

    spec: JobSpec
    idempotency_key: IdempotencyKey | None = None
    owner: str | None = None
    queue_share: int | None = None


class SubmitJob(_Struct, frozen=True, kw_only=True):
    """Accept a job. The front chooses the id, so that a repeated message makes no second job.

    The reply names an earlier job if its idempotency key is the same. An unused image is removed.
    """

    job_id: str
    spec: JobSpec
    image: str
    """File name in the inputs folder."""
    idempotency_key: IdempotencyKey | None = None
    owner: str | None = None
    """Name of the API key that submits it; None where no keys are in use."""
    queue_share: int | None = None
    """How many jobs of the owner may wait."""
    callback_url: str | None = None
    """The URL that is called when the job ends."""
    priority: Priority = 0


class GetJob(_Struct, frozen=True, kw_only=True):
    """Return a job."""

    job_id: str
    owner: str | None = None


class WatchJob(_Struct, frozen=True, kw_only=True):
    """Return every change of a job after `after_seq` that is still known, oldest first."""

    job_id: str
    after_seq: int
    owner: str | None = None


class ListJobs(_Struct, frozen=True, kw_only=True):
    """Return a page of the jobs, newest first."""

    limit: int = 100
    after: str | None = None
    """The last job of the page before; None for the first page."""
    oldest_first: bool = False
    owner: str | None = None


class CancelJob(_Struct, frozen=True, kw_only=True):
    """Cancel a job; the reply is final."""

    job_id: str
    owner: str | None = None


class DeleteJob(_Struct, frozen=True, kw_only=True):
    """Remove a job and its files; one that has not ended is cancelled first."""

    job_id: str
    owner: str | None = None


class GetHealth(_Struct, frozen=True, kw_only=True):
    """Return the state of groups and queue."""


class RemoveExpired(_Struct, frozen=True, kw_only=True):
    """Remove every expired job now."""


class DrainServer(_Struct, frozen=True, kw_only=True):
    """Start no more jobs, and have every launcher stop as on SIGTERM."""


class TakeCallback(_Struct, frozen=True, kw_only=True):
    """Take a callback that is due; the front that asks makes it."""


class EndCallback(_Struct, frozen=True, kw_only=True):
    """Report that a callback was received, so that it is not made again."""

    job_id: str


class FindProbe(_Struct, frozen=True, kw_only=True):
    """Return whether a file written by a joining machine is in the broker's store.

    It lies where videos are written; the machine chooses its name.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\.probe\Z")]


class BackUp(_Struct, frozen=True, kw_only=True):
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
    | GetHealth
    | RemoveExpired
    | DrainServer
    | TakeCallback
    | EndCallback
    | FindProbe
    | BackUp
)


class JobAcceptable(_Struct, frozen=True, kw_only=True):
    """The reply to `OfferJob`: the job would be accepted now."""


class JobFound(_Struct, frozen=True, kw_only=True):
    """The reply to a request about one job: its state after the request."""

    job: JobView


class JobHistory(_Struct, frozen=True, kw_only=True):
    """The reply to `WatchJob`: the missed changes; the last one is the present state."""

    jobs: list[JobView]


class JobsListed(_Struct, frozen=True, kw_only=True):
    """The reply to `ListJobs`."""

    jobs: list[JobView]
    has_more: bool


class JobDeleted(_Struct, frozen=True, kw_only=True):
    """The reply to `DeleteJob`."""


class HealthFound(_Struct, frozen=True, kw_only=True):
    """The reply to `GetHealth`."""

    ready: bool
    draining: bool
    queued: int
    running: int
    groups: list[GroupView]


class ExpiredRemoved(_Struct, frozen=True, kw_only=True):
    """The reply to `RemoveExpired`."""

    removed: int


class DrainBegun(_Struct, frozen=True, kw_only=True):
    """The reply to `DrainServer`: no more jobs are started."""

    running: int
    """Jobs that may still finish."""


class CallbackTaken(_Struct, frozen=True, kw_only=True):
    """The reply to `TakeCallback`; None if no callback is due."""

    callback: Callback | None


class CallbackEnded(_Struct, frozen=True, kw_only=True):
    """The reply to `EndCallback`."""


class ProbeChecked(_Struct, frozen=True, kw_only=True):
    """The reply to `FindProbe`."""

    found: bool


class BackedUp(_Struct, frozen=True, kw_only=True):
    """The reply to `BackUp`: the copy is complete and on disk."""

    num_bytes: int


class Refused(_Struct, frozen=True, kw_only=True):
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
    | ExpiredRemoved
    | DrainBegun
    | CallbackTaken
    | CallbackEnded
    | ProbeChecked
    | BackedUp
    | Refused
)


# --- groups: rank 0 and launcher to broker, and back ---------------------------------------------


class GroupStarted(_Struct, frozen=True, kw_only=True):
    """The launcher has started the processes of one life of a group.

    Repeated every `REGISTER_EVERY_S`, as `GroupReady` is: a restarted broker knows its peers only
    by what they send. A group's epoch rises with every restart, also of the launcher.
    """

    group: str
    epoch: int
    world_size: int


class LauncherHere(_Struct, frozen=True, kw_only=True):
    """A launcher without a group wants to receive `StopServer`."""


class GroupGone(_Struct, frozen=True, kw_only=True):
    """The launcher has reaped every process of one life of a group."""

    group: str
    epoch: int
    reason: str


class GroupLost(_Struct, frozen=True, kw_only=True):
    """The machine of a group is lost, as the engine that placed it knows."""

    group: str


class GroupReady(_Struct, frozen=True, kw_only=True):
    """Every rank has loaded; the group takes jobs. Repeated every `REGISTER_EVERY_S`."""

    group: str
    epoch: int
    shape: GroupShape
    device: str
    patience: Annotated[float, msgspec.Meta(ge=1.0, le=100.0)] = 1.0
    """How many times as long as on an accelerator work may take before it counts as hung."""
    running: list[Lease] = []
    """The attempts that run, including those whose file is being written; a restarted broker adopts
    them, or cancels those that the journal does not list."""


class JobStarted(_Struct, frozen=True, kw_only=True):
    """Rank 0 has taken the job of this lease."""

    lease: Lease


class JobDecoded(_Struct, frozen=True, kw_only=True):
    """The ranks are free for the next job while the file is being written."""

    lease: Lease


class JobDelayed(_Struct, frozen=True, kw_only=True):
    """An attempt waits for something outside the group, and continues by itself.

    Repeated at least every 15 s while it waits.
    """

    lease: Lease
    reason: str


class JobFinished(_Struct, frozen=True, kw_only=True):
    """The whole video is stored."""

    lease: Lease
    video: str


class JobFailed(_Struct, frozen=True, kw_only=True):
    """The attempt ended without a video, and the job would fail again."""

    lease: Lease
    code: ErrorCode
    reason: str


class JobStopped(_Struct, frozen=True, kw_only=True):
    """Every rank has left the attempt: it was cancelled or preempted, or the group stops."""

    lease: Lease
    preempted: bool = False
    """It made way for a more urgent job: its state is saved, and the group goes on."""


class DrainGroup(_Struct, frozen=True, kw_only=True):
    """The launcher wants to stop one life of a group: give it no more jobs, report when it is idle.

    Repeated every `REGISTER_EVERY_S` until `GroupDrained` arrives.
    """

    group: str
    epoch: int


class DrainBroker(_Struct, frozen=True, kw_only=True):
    """The launcher wants to stop: dispatch no more jobs, report when nothing runs."""


GroupReport = (
    GroupStarted
    | GroupGone
    | GroupLost
    | GroupReady
    | JobStarted
    | JobDecoded
    | JobDelayed
    | JobFinished
    | JobFailed
    | JobStopped
    | DrainGroup
    | DrainBroker
)
PeerReport = GroupReport | LauncherHere


class RunJob(_Struct, frozen=True, kw_only=True):
    """Run an attempt of a job; `JobStarted` is due within 5 s."""

    lease: Lease
    spec: JobSpec
    image: str


class CancelRun(_Struct, frozen=True, kw_only=True):
    """Leave the attempt of a lease at the next boundary, all ranks together."""

    lease: Lease


class PreemptRun(_Struct, frozen=True, kw_only=True):
    """Save the attempt of a lease at the next boundary and leave it, for a more urgent job.

    An attempt that is about to end, or has ended, ignores it.
    """

    lease: Lease


class KillGroup(_Struct, frozen=True, kw_only=True):
    """To the launcher: end this life of the group and start the next."""

    group: str
    epoch: int
    reason: str


class StopServer(_Struct, frozen=True, kw_only=True):
    """To the launcher: stop as on SIGTERM."""


class GroupDrained(_Struct, frozen=True, kw_only=True):
    """To the launcher: nothing runs on this life of the group."""

    group: str
    epoch: int


class Drained(_Struct, frozen=True, kw_only=True):
    """To the launcher: nothing runs."""


class Reregister(_Struct, frozen=True, kw_only=True):
    """To a peer that the broker does not know, after its restart: register again.

    Rank 0 first repeats the last report of its latest two attempts, since the old broker may have
    ended before it wrote them, and then sends `GroupReady`.
    """


GroupCommand = (
    RunJob | CancelRun | PreemptRun | KillGroup | StopServer | GroupDrained | Drained | Reregister
)


# --- beats: every rank to broker -----------------------------------------------------------------


class Heartbeat(_Struct, frozen=True, kw_only=True):
    """Sent by each rank once a second.

    `num_done` counts finished work items: a rising count is progress, a heartbeat alone is not.
    """

    group: str
    epoch: int
    rank: int
    pid: int
    device: str
    stage: Stage
    step: int
    num_done: int
    memory_bytes: int


class StepDone(_Struct, frozen=True, kw_only=True):
    """Rank 0 has finished a step of a stage; `step` counts from 1 to `num_steps`."""

    lease: Lease
    stage: Stage
    step: int
    num_steps: int


class JobPreview(_Struct, frozen=True, kw_only=True):
    """A small picture of the video as it is now; the broker passes it on and keeps none."""

    lease: Lease
    jpeg: Annotated[bytes, msgspec.Meta(max_length=MAX_PREVIEW_BYTES)]


RankMessage = Heartbeat | StepDone | JobPreview


class Codec(Generic[Message]):
    """Encodes and decodes the messages of one direction."""

    def __init__(self, union: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)

    def encode(self, message: Message) -> list[bytes]:
        """Return the parts of a message."""
        return [PROTOCOL_VERSION, self._encoder.encode(message)]

    def decode(self, parts: list[bytes]) -> Message:
        """Return the message in the parts.

        Raises:
            ProtocolError: If the version or the message is not of this direction.
        """
        if len(parts) != 2 or parts[0] != PROTOCOL_VERSION:
            raise ProtocolError(
                f"expected version {PROTOCOL_VERSION!r} and a body, found {len(parts)} parts "
                f"starting with {parts[0][:16] if parts else b''!r}"
            )
        try:
            return self._decoder.decode(parts[1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # Hostile bytes can raise the last two, although they are not msgspec errors.
            raise ProtocolError(f"undecodable body of {len(parts[1])} bytes") from error


front_requests: Codec[FrontRequest] = Codec(FrontRequest)
front_replies: Codec[FrontReply] = Codec(FrontReply)
group_reports: Codec[PeerReport] = Codec(PeerReport)
group_commands: Codec[GroupCommand] = Codec(GroupCommand)
rank_messages: Codec[RankMessage] = Codec(RankMessage)
job_events: Codec[JobView] = Codec(JobView)
job_previews: Codec[JobPreview] = Codec(JobPreview)


def preview_topic(job_id: str) -> bytes:
    """Return the topic of a job's previews on `events`, which a subscriber to changes lacks."""
    return f"preview.{job_id}".encode()
