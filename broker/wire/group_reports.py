"""Reports of launchers and of rank 0 to the broker, on the `groups` socket."""

from typing import Annotated

import msgspec

from broker.wire.codec import Codec, Message
from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.group_shape import GroupShape
from broker.wire.job_view import Lease

REGISTER_EVERY_S = 2.0


class GroupStarted(Message, frozen=True, kw_only=True):
    """The launcher has started the processes of one life of a group.

    Repeated every `REGISTER_EVERY_S`, as `GroupReady` is: a restarted broker knows its peers only
    by what they send. A group's epoch rises with every restart, also of the launcher.
    """

    group: str
    epoch: int
    world_size: int


class LauncherHere(Message, frozen=True, kw_only=True):
    """A launcher without a group wants to receive `StopServer`."""


class GroupGone(Message, frozen=True, kw_only=True):
    """The launcher has reaped every process of one life of a group."""

    group: str
    epoch: int
    reason: str


class GroupLost(Message, frozen=True, kw_only=True):
    """The machine of a group is lost, as the engine that placed it knows."""

    group: str


class GroupReady(Message, frozen=True, kw_only=True):
    """Every rank has loaded; the group takes jobs. Repeated every `REGISTER_EVERY_S`."""

    group: str
    epoch: int
    shape: GroupShape
    device: str
    patience: Annotated[float, msgspec.Meta(ge=1.0, le=100.0)] = 1.0
    """How many times as long as on an accelerator work may take before it counts as hung."""
    running: list[Lease] = msgspec.field(default_factory=list)
    """The attempts that run, including those whose file is being written; a restarted broker adopts
    them, or cancels those that the journal does not list."""


class JobStarted(Message, frozen=True, kw_only=True):
    """Rank 0 has taken the job of this lease."""

    lease: Lease
    prompt_tokens: int | None = None
    """Length of its prompt, as its model counts it."""


class JobDecoded(Message, frozen=True, kw_only=True):
    """The ranks are free for the next job while the file is being written."""

    lease: Lease


class JobDelayed(Message, frozen=True, kw_only=True):
    """An attempt waits for something outside the group, and continues by itself.

    Repeated at least every 15 s while it waits.
    """

    lease: Lease
    reason: str


class JobFinished(Message, frozen=True, kw_only=True):
    """The whole video is stored."""

    lease: Lease
    video: str
    warning: ResultWarning | None = None


class JobFailed(Message, frozen=True, kw_only=True):
    """The attempt ended without a video, and the job would fail again."""

    lease: Lease
    code: ErrorCode
    reason: str


class JobStopped(Message, frozen=True, kw_only=True):
    """Every rank has left the attempt: it was cancelled or preempted, or the group stops."""

    lease: Lease
    preempted: bool = False
    """It made way for a more urgent job: its state is saved, and the group goes on."""


class DrainGroup(Message, frozen=True, kw_only=True):
    """The launcher wants to stop one life of a group: give it no more jobs, report when it is idle.

    Repeated every `REGISTER_EVERY_S` until `GroupDrained` arrives.
    """

    group: str
    epoch: int


class DrainBroker(Message, frozen=True, kw_only=True):
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


group_reports: Codec[PeerReport] = Codec(PeerReport)
