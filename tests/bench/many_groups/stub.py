"""One stub group: the messages of a launcher and eight ranks, as cheap as Python allows."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
import zmq

from broker.wire.group_commands import CancelRun, KillGroup, Reregister, RunJob, group_commands
from broker.wire.group_reports import (
    REGISTER_EVERY_S,
    GroupGone,
    GroupReady,
    GroupStarted,
    JobDecoded,
    JobFinished,
    JobStarted,
    JobStopped,
    group_reports,
)
from broker.wire.group_shape import GroupShape
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import Heartbeat, RankMessage, StepDone, rank_messages
from broker.wire.sockets import Addresses, connect_dealer, connect_pub
from tests.bench.many_groups.loop import Act, Loop, Over, SocketReader
from tests.chaos.ledger import Entry, What

WORLD_SIZE = 8
SHAPE = GroupShape(world_size=WORLD_SIZE, num_heads=8)
BEAT_EVERY_S = 1.0
LOAD_S = 3.0
CONNECT_AGAIN_S = 0.05
SAVE_S = 0.3
AWAY_AFTER_LOST_S = 5.0
NUM_STEPS = 20


class Moment(NamedTuple):
    """A step of an attempt, and the share of its duration."""

    stage: Stage
    step: int
    num_steps: int
    share: float


RUN = (
    Moment(Stage.ENCODE, 1, 1, 0.05),
    *(Moment(Stage.DENOISE, step, NUM_STEPS, 0.87 / NUM_STEPS) for step in range(1, NUM_STEPS + 1)),
    *(Moment(Stage.DECODE, step, 2, 0.04) for step in (1, 2)),
)


class Wait(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How long a free group waited for its next job; seconds since 1970."""

    job_id: str
    attempt: int
    free_at: float
    given_at: float


class Record(msgspec.Struct, kw_only=True):
    """What the stub groups have done."""

    entries: list[Entry] = []
    waits: list[Wait] = []
    lost: list[tuple[str, int]] = []
    """Lost epochs of groups."""
    num_gone: int = 0
    """Lost epochs that the launcher has reported."""
    num_silent: int = 0
    """Epochs lost together with their launcher, without a report."""
    num_killed: int = 0
    """Healthy epochs that the broker took for hung."""


class Life:
    """One epoch of a group: its rank 0, and the heartbeats of all ranks."""

    def __init__(
        self, loop: Loop, addresses: Addresses, beats: "zmq.Socket[bytes]", record: Record,
        group: str, epoch: int, run_s: float, begun_share: float, load_s: float,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._record = record
        self._group = group
        self._epoch = epoch
        self._run_s = run_s
        self._left = 1.0 - begun_share
        """Share of the first attempt done at its start, so that groups do not finish together."""
        self._is_over = False
        self._stage = Stage.LOAD
        self._step = self._num_done = 0
        self._running: list[Lease] = []
        self._free_at: float | None = None
        dealer = connect_dealer(loop.context.socket(zmq.DEALER), addresses.groups, "rank-0")
        self._reader = SocketReader(loop, dealer, self._take)
        self._beats = beats
        for rank in range(WORLD_SIZE):
            self._every(BEAT_EVERY_S, partial(self._beat, rank), rank * BEAT_EVERY_S / WORLD_SIZE)
        self._later(load_s, self._load)

    def end(self) -> None:
        """Close all sockets of this epoch at once."""
        self._is_over = True
        self._reader.close()

    def _load(self) -> None:
        """Register as soon as the broker is connected."""
        self._stage = Stage.IDLE
        self._free_at = time.time()
        if self._register():
            self._every(REGISTER_EVERY_S, self._register, REGISTER_EVERY_S)
        else:
            self._later(CONNECT_AGAIN_S, self._load)

    def _register(self) -> bool:
        return self._reader.send(
            group_reports.encode(
                GroupReady(
                    group=self._group,
                    epoch=self._epoch,
                    shape=SHAPE,
                    device="stub",
                    running=self._running,
                )
            )
        )

    def _beat(self, rank: int) -> None:
        self._publish(
            Heartbeat(
                group=self._group,
                epoch=self._epoch,
                rank=rank,
                pid=rank,
                device="stub",
                stage=self._stage,
                step=self._step,
                num_done=self._num_done,
                memory_bytes=0,
            ),
        )

    def _publish(self, message: RankMessage) -> None:
        self._beats.send_multipart(rank_messages.encode(message))

    def _take(self, parts: list[bytes]) -> None:
        command = group_commands.decode(parts)
        match command:
            case RunJob():
                self._begin(command.lease)
            case CancelRun() if command.lease in self._running:
                self._running.remove(command.lease)
                self._reader.send(group_reports.encode(JobStopped(lease=command.lease)))
            case Reregister():
                self._register()
            case _:
                pass

    # --- a run -----------------------------------------------------------------------------------

    def _begin(self, lease: Lease) -> None:
        now_s = time.time()
        if self._free_at is not None:
            self._record.waits.append(
                Wait(
                    job_id=lease.job_id,
                    attempt=lease.attempt,
                    free_at=self._free_at,
                    given_at=now_s,
                )
            )
        self._free_at = None
        self._running.append(lease)
        self._note("started", lease)
        self._reader.send(group_reports.encode(JobStarted(lease=lease)))
        run_s, self._left = self._run_s * self._left, 1.0
        self._stage = Stage.ENCODE
        self._later(RUN[0].share * run_s, partial(self._work, lease, run_s, 0))

    def _work(self, lease: Lease, run_s: float, index: int) -> None:
        if lease not in self._running:
            return
        done = RUN[index]
        self._stage, self._step = done.stage, done.step
        self._num_done += 1
        self._note("worked", lease)
        self._publish(
            StepDone(lease=lease, stage=done.stage, step=done.step, num_steps=done.num_steps),
        )
        if index + 1 < len(RUN):
            self._stage = RUN[index + 1].stage
            share = RUN[index + 1].share
            self._later(share * run_s, partial(self._work, lease, run_s, index + 1))
        else:
            self._stage = Stage.IDLE
            self._free_at = time.time()
            self._reader.send(group_reports.encode(JobDecoded(lease=lease)))
            self._later(SAVE_S, partial(self._finish, lease))

    def _finish(self, lease: Lease) -> None:
        if lease in self._running:
            self._running.remove(lease)
            self._note("ended", lease)
            video = f"{lease.job_id}.mp4"
            self._reader.send(group_reports.encode(JobFinished(lease=lease, video=video)))

    def _note(self, what: What, lease: Lease) -> None:
        self._record.entries.append(
            Entry(
                what=what,
                at_s=time.time(),
                group=lease.group,
                epoch=lease.epoch,
                job_id=lease.job_id,
                attempt=lease.attempt,
            )
        )

    def _later(self, delay_s: float, act: Act) -> None:
        self._loop.after(delay_s, partial(self._if_alive, act))

    def _every(self, period_s: float, act: Callable[[], object], first_s: float) -> None:
        self._loop.every(period_s, partial(self._while_alive, act), first_s)

    def _if_alive(self, act: Act) -> None:
        if not self._is_over:
            act()

    def _while_alive(self, act: Act) -> None:
        if self._is_over:
            raise Over
        act()


class StubGroup:
    """A group over all its epochs, with its launcher.

    Args:
        loop: The event loop.
        addresses: The broker's sockets.
        record: Receives what the group does.
        name: The group's name.
        run_s: Duration of a job.
        begun_share: Share of the first attempt that is done at its start.
    """

    def __init__(
        self, loop: Loop, addresses: Addresses, record: Record, name: str, run_s: float,
        begun_share: float,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._addresses = addresses
        self._record = record
        self._name = name
        self._run_s = run_s
        self._begun_share = begun_share
        self._epoch = 0
        self._life: Life | None = None
        self._launcher: SocketReader | None = None
        self._beats: zmq.Socket[bytes] | None = None
        # Machines do not start at the same moment, so their messages are spread out.
        loop.every(REGISTER_EVERY_S, self._register, REGISTER_EVERY_S * (1.0 + begun_share))

    @property
    def is_alive(self) -> bool:
        """Whether the group runs or loads."""
        return self._life is not None

    def start(self, load_s: float = 0.0) -> None:
        """Start an epoch; the launcher reports it."""
        if self._launcher is None or self._beats is None:
            dealer = self._loop.context.socket(zmq.DEALER)
            connect_dealer(dealer, self._addresses.groups, "launcher")
            self._launcher = SocketReader(self._loop, dealer, self._take)
            self._beats = self._loop.context.socket(zmq.PUB)
            connect_pub(self._beats, self._addresses.beats)
        self._epoch += 1
        self._life = Life(
            self._loop, self._addresses, self._beats, self._record, self._name, self._epoch,
            self._run_s, self._begun_share, load_s,
        )  # fmt: skip
        self._begun_share = 0.0
        self._register()

    def die(self, reason: str = "the stub was set to die") -> None:
        """Lose the epoch; the launcher reports it and starts the next."""
        assert self._life is not None, "there is nothing to lose"
        assert self._launcher is not None, "a vanished machine reports nothing"
        self._record.num_gone += 1
        self._record.lost.append((self._name, self._epoch))
        self._life.end()
        self._life = None
        gone = GroupGone(group=self._name, epoch=self._epoch, reason=reason)
        self._launcher.send(group_reports.encode(gone))
        self._loop.after(1.0, partial(self.start, LOAD_S))

    def vanish(self, lost_s: float) -> None:
        """Lose the whole machine; it returns after the broker counts it as lost."""
        assert self._life is not None, "there is nothing to lose"
        assert self._launcher is not None, "a machine has a launcher"
        assert self._beats is not None, "which passes the beats of its ranks on"
        self._record.num_silent += 1
        self._record.lost.append((self._name, self._epoch))
        self._life.end()
        self._launcher.close()
        self._beats.close(linger=0)
        self._life = self._launcher = self._beats = None
        self._loop.after(lost_s + AWAY_AFTER_LOST_S, partial(self.start, LOAD_S))

    def _register(self) -> None:
        if self._launcher is not None and self._life is not None:
            started = GroupStarted(group=self._name, epoch=self._epoch, world_size=WORLD_SIZE)
            self._launcher.send(group_reports.encode(started))

    def _take(self, parts: list[bytes]) -> None:
        command = group_commands.decode(parts)
        if isinstance(command, KillGroup) and command.epoch == self._epoch and self.is_alive:
            self._record.num_killed += 1
            self.die(command.reason)
        elif isinstance(command, Reregister):
            self._register()
