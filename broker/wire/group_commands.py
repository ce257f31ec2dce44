"""Commands of the broker to launchers and to rank 0, on the `groups` socket."""

import msgspec

from broker.wire.codec import Codec, Message
from broker.wire.job import JobSpec
from broker.wire.job_view import Lease
from broker.wire.lora import LoraHashes


class RunJob(Message, frozen=True, kw_only=True):
    """Run an attempt of a job; `JobStarted` is due within 5 s."""

    lease: Lease
    spec: JobSpec
    image: str
    last_image: str | None = None
    lora_hashes: LoraHashes = msgspec.field(default_factory=dict)
    """Of the job's LoRAs when it was accepted."""


class CancelRun(Message, frozen=True, kw_only=True):
    """Leave the attempt of a lease at the next boundary, all ranks together."""

    lease: Lease


class PreemptRun(Message, frozen=True, kw_only=True):
    """Save the attempt of a lease at the next boundary and leave it, for a more urgent job.

    An attempt that is about to end, or has ended, ignores it.
    """

    lease: Lease


class KillGroup(Message, frozen=True, kw_only=True):
    """To the launcher: end this life of the group and start the next."""

    group: str
    epoch: int
    reason: str


class StopServer(Message, frozen=True, kw_only=True):
    """To the launcher: stop as on SIGTERM."""


class GroupDrained(Message, frozen=True, kw_only=True):
    """To the launcher: nothing runs on this life of the group."""

    group: str
    epoch: int


class Drained(Message, frozen=True, kw_only=True):
    """To the launcher: nothing runs."""


class Reregister(Message, frozen=True, kw_only=True):
    """To a peer that the broker does not know, after its restart: register again.

    Rank 0 first repeats the last report of its latest two attempts, since the old broker may have
    ended before it wrote them, and then sends `GroupReady`.
    """


GroupCommand = (
    RunJob | CancelRun | PreemptRun | KillGroup | StopServer | GroupDrained | Drained | Reregister
)


group_commands: Codec[GroupCommand] = Codec(GroupCommand)
