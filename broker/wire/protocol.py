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
    """Raised when the parts of a message cannot be decoded."""


class ErrorCode(Enum):
    """Why something was refused or failed; the values are those that clients see."""

    INVALID_BODY = "invalid_body"  # no JSON, no form, wrong shape
    INVALID_FIELD = "invalid_field"  # unknown name, wrong type, out of range
    UNSUPPORTED_LAYOUT = "unsupported_layout"  # the group cannot split a job like that
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    IMAGE_URL_FORBIDDEN = "image_url_forbidden"  # scheme, port, address, characters
    IMAGE_UNAVAILABLE = "image_unavailable"  # the other server did not deliver
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_INVALID = "image_invalid"  # not a picture that can be used
    IDEMPOTENCY_KEY_REUSE = "idempotency_key_reuse"  # the same key, another request
    JOB_NOT_FOUND = "job_not_found"  # or another key's: the two look the same
    JOB_FINISHED = "job_finished"  # too late to cancel
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"  # too many requests with one key
    STORAGE_FULL = "storage_full"
    UNAVAILABLE = "unavailable"  # the broker does not answer, or drains
    NOT_FOUND = "not_found"  # no such route or file
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNAUTHORIZED = "unauthorized"  # no API key, or a wrong one
    FORBIDDEN = "forbidden"  # wrong Host or Origin, or a key that may not do this
    INTERNAL = "internal"  # our fault; the log says more
    RUN_FAILED = "run_failed"  # the ranks raised during the run
    OUT_OF_MEMORY = "out_of_memory"  # of an accelerator
    SAVE_FAILED = "save_failed"  # the video could not be written
    GROUP_LOST = "group_lost"  # its group died in every attempt


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base of every message: frozen, tagged with its class name, strict."""


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The right of one life of one group to run one attempt of one job: the fencing token."""

    group: str
    epoch: int
    job_id: str
    attempt: int
    """Rises with every lease of the job, so that none is ever in force twice."""


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
    """The news of a job's end, for the address that its client has named."""

    job_id: str
    url: str
    owner: str | None
    state: JobState
    ended_at: float
    tries: int
    """How often it was handed over before."""


class RankView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rank as the broker last heard of it."""

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
    """What a client calls its request, so that the same request twice makes one job."""

    key: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,255}\Z")]
    request_hash: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """SHA-256 over all that the client asked for."""


class OfferJob(_Struct, frozen=True, kw_only=True):
    """Tell whether a job would be accepted now, before the work on its image is done.

    The answer is `JobFound` if the key has a job already, `JobAcceptable`, or `Refused`.
    """

    spec: JobSpec
    idempotency_key: IdempotencyKey | None = None
    owner: str | None = None
    queue_share: int | None = None


class SubmitJob(_Struct, frozen=True, kw_only=True):
    """Accept a job. The front makes the id, so that a repeated message makes no second job.

    The answer names another job if one with the same key was accepted before. An image that no job
    uses is removed.
    """

    job_id: str
    spec: JobSpec
    image: str
    """File name in the inputs folder."""
    idempotency_key: IdempotencyKey | None = None
    owner: str | None = None
    """Name of the API key whose job it will be; None where no keys are in use."""
    queue_share: int | None = None
    """How many jobs of this owner may wait."""
    callback_url: str | None = None
    """Where to tell of the job's end."""
    priority: Priority = 0


class GetJob(_Struct, frozen=True, kw_only=True):
    """Tell what is known of a job."""

    job_id: str
    owner: str | None = None


class WatchJob(_Struct, frozen=True, kw_only=True):
    """Tell every change of a job after `after_seq` that is still known, oldest first."""

    job_id: str
    after_seq: int
    owner: str | None = None


class ListJobs(_Struct, frozen=True, kw_only=True):
    """Tell a page of the jobs, newest first."""

    limit: int = 100
    after: str | None = None
    """The last job of the page before; None is the first page."""
    oldest_first: bool = False
    owner: str | None = None


class CancelJob(_Struct, frozen=True, kw_only=True):
    """End a job; the answer is final."""

    job_id: str
    owner: str | None = None


class DeleteJob(_Struct, frozen=True, kw_only=True):
    """Remove a job and its files; one that has not ended is cancelled first."""

    job_id: str
    owner: str | None = None


class GetHealth(_Struct, frozen=True, kw_only=True):
    """Tell how groups and queue are."""


class RemoveExpired(_Struct, frozen=True, kw_only=True):
    """Remove every expired job now."""


class DrainServer(_Struct, frozen=True, kw_only=True):
    """Start nothing more, and have every launcher stop its part of the server as on SIGTERM."""


class TakeCallback(_Struct, frozen=True, kw_only=True):
    """Hand over a callback that is due, to be made by the front that asks."""


class EndCallback(_Struct, frozen=True, kw_only=True):
    """A callback was heard: nobody shall make it again."""

    job_id: str


class FindProbe(_Struct, frozen=True, kw_only=True):
    """Tell whether a file that a joining machine has just written is in this broker's folder, too.

    It lies where videos are written; the name is the machine's choice.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\.probe\Z")]


class BackUp(_Struct, frozen=True, kw_only=True):
    """Write a consistent copy of the journal to a file that does not exist yet."""

    path: str
    """Absolute: the broker has its own working directory."""


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
    """The answer to `OfferJob`: as things are now, the job would be accepted."""


class JobFound(_Struct, frozen=True, kw_only=True):
    """The answer to a request about one job: how it is after the request."""

    job: JobView


class JobHistory(_Struct, frozen=True, kw_only=True):
    """The answer to `WatchJob`: the missed changes; the last is how the job is now."""

    jobs: list[JobView]


class JobsListed(_Struct, frozen=True, kw_only=True):
    """The answer to `ListJobs`."""

    jobs: list[JobView]
    has_more: bool


class JobDeleted(_Struct, frozen=True, kw_only=True):
    """The answer to `DeleteJob`."""


class HealthFound(_Struct, frozen=True, kw_only=True):
    """The answer to `GetHealth`."""

    ready: bool
    draining: bool
    queued: int
    running: int
    groups: list[GroupView]


class ExpiredRemoved(_Struct, frozen=True, kw_only=True):
    """The answer to `RemoveExpired`."""

    removed: int


class DrainBegun(_Struct, frozen=True, kw_only=True):
    """The answer to `DrainServer`: nothing more is started."""

    running: int
    """Jobs that may still finish."""


class CallbackTaken(_Struct, frozen=True, kw_only=True):
    """The answer to `TakeCallback`; None where none is due."""

    callback: Callback | None


class CallbackEnded(_Struct, frozen=True, kw_only=True):
    """The answer to `EndCallback`."""


class ProbeChecked(_Struct, frozen=True, kw_only=True):
    """The answer to `FindProbe`."""

    found: bool


class BackedUp(_Struct, frozen=True, kw_only=True):
    """The answer to `BackUp`: the copy is whole and on disk."""

    num_bytes: int


class Refused(_Struct, frozen=True, kw_only=True):
    """The answer to a request that was not carried out."""

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

    Sent again every `REGISTER_EVERY_S`, as `GroupReady` is: a restarted broker knows its peers
    only by what they send. The epoch of a group rises over every restart, the launcher's too.
    """

    group: str
    epoch: int
    world_size: int


class LauncherHere(_Struct, frozen=True, kw_only=True):
    """A launcher runs no group now, but wants to hear of a stop."""


class GroupGone(_Struct, frozen=True, kw_only=True):
    """The launcher has reaped every process of one life of a group."""

    group: str
    epoch: int
    reason: str


class GroupLost(_Struct, frozen=True, kw_only=True):
    """Who has placed a group knows that its machine is lost: sooner than by the group's silence."""

    group: str


class GroupReady(_Struct, frozen=True, kw_only=True):
    """Every rank has loaded; the group takes jobs. Sent again every `REGISTER_EVERY_S`."""

    group: str
    epoch: int
    shape: GroupShape
    device: str
    patience: Annotated[float, msgspec.Meta(ge=1.0, le=100.0)] = 1.0
    """How many times as long as on an accelerator its work may take before it counts as hung."""
    running: list[Lease] = []
    """The runs that are on, those whose file is being written included: what a restarted broker
    adopts, or cancels if the journal says so."""


class JobStarted(_Struct, frozen=True, kw_only=True):
    """Rank 0 has taken the job of this lease."""

    lease: Lease


class JobDecoded(_Struct, frozen=True, kw_only=True):
    """The tensors' work is over, the file is being written; the group can take its next job."""

    lease: Lease


class JobDelayed(_Struct, frozen=True, kw_only=True):
    """A run waits for something outside of the group, and goes on by itself when it is there.

    Said again, at least every 15 s, as long as that lasts.
    """

    lease: Lease
    reason: str


class JobFinished(_Struct, frozen=True, kw_only=True):
    """The whole video is in its place, on disk."""

    lease: Lease
    video: str


class JobFailed(_Struct, frozen=True, kw_only=True):
    """The run ended without a video, and the same job would fail again."""

    lease: Lease
    code: ErrorCode
    reason: str


class JobStopped(_Struct, frozen=True, kw_only=True):
    """Every rank has left the run: it was cancelled or preempted, or the group stops."""

    lease: Lease
    preempted: bool = False
    """It has left for a more urgent job: what it had done is saved, and the group goes on."""


class DrainGroup(_Struct, frozen=True, kw_only=True):
    """The launcher wants to stop one life of a group: give it nothing more, tell when it is idle.

    Sent again every `REGISTER_EVERY_S` until the answer, `GroupDrained`, is there.
    """

    group: str
    epoch: int


class DrainBroker(_Struct, frozen=True, kw_only=True):
    """The launcher wants to stop: dispatch nothing more, and tell when nothing runs."""


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
    """Run an attempt of a job; answer `JobStarted` within 5 s."""

    lease: Lease
    spec: JobSpec
    image: str


class CancelRun(_Struct, frozen=True, kw_only=True):
    """Leave the run of this lease at the next boundary, all ranks together."""

    lease: Lease


class PreemptRun(_Struct, frozen=True, kw_only=True):
    """Save the run of this lease at the next boundary and leave it, for a more urgent job.

    The run that is about to end, or has ended, takes no notice.
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
    """To the launcher: nothing runs on this life of the group any more."""

    group: str
    epoch: int


class Drained(_Struct, frozen=True, kw_only=True):
    """To the launcher: nothing runs any more."""


class Reregister(_Struct, frozen=True, kw_only=True):
    """To a peer the broker does not know (it was restarted): tell again who you are.

    Rank 0 first repeats the last report of its latest two runs, since the old broker may have died
    before it was written, and then sends `GroupReady`.
    """


GroupCommand = (
    RunJob | CancelRun | PreemptRun | KillGroup | StopServer | GroupDrained | Drained | Reregister
)


# --- beats: every rank to broker -----------------------------------------------------------------


class Heartbeat(_Struct, frozen=True, kw_only=True):
    """One a second from each rank.

    `num_done` counts finished work items: a beat alone is not progress, a rising count is.
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
    """Rank 0 has finished a step of a stage of a run; `step` counts from 1 to `num_steps`."""

    lease: Lease
    stage: Stage
    step: int
    num_steps: int


class JobPreview(_Struct, frozen=True, kw_only=True):
    """A small picture of a run as it is; the broker relays it as it came, and keeps none."""

    lease: Lease
    jpeg: Annotated[bytes, msgspec.Meta(max_length=MAX_PREVIEW_BYTES)]


RankMessage = Heartbeat | StepDone | JobPreview


class Codec(Generic[Message]):
    """Turns the messages of one direction into parts, and parts into messages."""

    def __init__(self, union: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)

    def encode(self, message: Message) -> list[bytes]:
        """Return the parts of a message."""
        return [PROTOCOL_VERSION, self._encoder.encode(message)]

    def decode(self, parts: list[bytes]) -> Message:
        """Return the message that the parts hold.

        Raises:
            ProtocolError: If the version is unknown or the body is not a message of this direction.
        """
        if len(parts) != 2 or parts[0] != PROTOCOL_VERSION:
            raise ProtocolError(
                f"expected version {PROTOCOL_VERSION!r} and a body, found {len(parts)} parts "
                f"starting with {parts[0][:16] if parts else b''!r}"
            )
        try:
            return self._decoder.decode(parts[1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # The last two are no msgspec errors, yet hostile bytes can raise them.
            raise ProtocolError(f"undecodable body of {len(parts[1])} bytes") from error


front_requests: Codec[FrontRequest] = Codec(FrontRequest)
front_replies: Codec[FrontReply] = Codec(FrontReply)
group_reports: Codec[PeerReport] = Codec(PeerReport)
group_commands: Codec[GroupCommand] = Codec(GroupCommand)
rank_messages: Codec[RankMessage] = Codec(RankMessage)
job_events: Codec[JobView] = Codec(JobView)
job_previews: Codec[JobPreview] = Codec(JobPreview)


def preview_topic(job_id: str) -> bytes:
    """Return the topic of a job's previews on `events`: whoever wants changes only hears none."""
    return f"preview.{job_id}".encode()
