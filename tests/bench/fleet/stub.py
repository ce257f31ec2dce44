"""One stub group of the fleet: what a launcher and eight ranks say, as cheaply as Python can."""

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
from broker.wire.job import GroupShape, Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import Heartbeat, RankMessage, StepDone, rank_messages
from broker.wire.sockets import Addresses, connect_dealer, connect_pub
from tests.bench.fleet.loop import Act, Loop, Over, SocketReader
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
    """A step of a run, and which part of the run it takes."""

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
    """How long a group that was free has waited for its next job; seconds since 1970."""

    job_id: str
    attempt: int
    free_at: float
    given_at: float


class Record(msgspec.Struct, kw_only=True):
    """What stub groups have really done."""

    entries: list[Entry] = []
    waits: list[Wait] = []
    lost: list[tuple[str, int]] = []
    """The lives of groups that were lost, by their epochs."""
    num_gone: int = 0
    """Lives that were lost, and whose launcher has told."""
    num_silent: int = 0
    """Lives that were lost together with their launcher, without a word."""
    num_killed: int = 0
    """Lives that the broker took for hung, and that were well."""


class Life:
    """One life of a group: its rank 0, and the beats of all its ranks."""

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
        """Which part of a run the next one takes: groups do not all finish at once."""
        self._is_over = False
        self._stage = Stage.LOAD
        self._step = self._num_done = 0
        self._running: list[Lease] = []
        self._free_at: float | None = None
        dealer = connect_dealer(loop.context.socket(zmq.DEALER), addresses.groups, "rank-0")
        self._line = SocketReader(loop, dealer, self._take)
        self._beats = beats
        for rank in range(WORLD_SIZE):
            self._every(BEAT_EVERY_S, partial(self._beat, rank), rank * BEAT_EVERY_S / WORLD_SIZE)
        self._later(load_s, self._load)

    def end(self) -> None:
        """Let everything of this life be gone at once."""
        self._is_over = True
        self._line.close()

    def _load(self) -> None:
        """Be ready as soon as the broker is there."""
        self._stage = Stage.IDLE
        self._free_at = time.time()
        if self._register():
            self._every(REGISTER_EVERY_S, self._register, REGISTER_EVERY_S)
        else:
            self._later(CONNECT_AGAIN_S, self._load)

    def _register(self) -> bool:
        return self._line.send(
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

    def _publish(self, news: RankMessage) -> None:
        self._beats.send_multipart(rank_messages.encode(news))

    def _take(self, parts: list[bytes]) -> None:
        command = group_commands.decode(parts)
        match command:
            case RunJob():
                self._begin(command.lease)
            case CancelRun() if command.lease in self._running:
                self._running.remove(command.lease)
                self._line.send(group_reports.encode(JobStopped(lease=command.lease)))
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
        self._line.send(group_reports.encode(JobStarted(lease=lease)))
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
            self._line.send(group_reports.encode(JobDecoded(lease=lease)))
            self._later(SAVE_S, partial(self._finish, lease))

    def _finish(self, lease: Lease) -> None:
        if lease in self._running:
            self._running.remove(lease)
            self._note("ended", lease)
            video = f"{lease.job_id}.mp4"
            self._line.send(group_reports.encode(JobFinished(lease=lease, video=video)))

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
    """A group over all its lives, with its launcher.

    Args:
        loop: Runs it.
        addresses: Of the broker.
        record: Where it writes down what it does.
        name: Of the group.
        run_s: How long a run takes.
        begun_share: Which part of its first run is over when that begins.
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
        # Machines were not started in one moment, and do not speak in one.
        loop.every(REGISTER_EVERY_S, self._register, REGISTER_EVERY_S * (1.0 + begun_share))

    @property
    def is_alive(self) -> bool:
        """Whether it is there, be it that it still loads."""
        return self._life is not None

    def start(self, load_s: float = 0.0) -> None:
        """Begin a life, and have the launcher tell of it."""
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

    def die(self, reason: str = "the stub was told to die") -> None:
        """Lose the life; the launcher tells, and starts the next."""
        assert self._life is not None, "there is nothing to lose"
        assert self._launcher is not None, "somebody has to tell"
        self._record.num_gone += 1
        self._record.lost.append((self._name, self._epoch))
        self._life.end()
        self._life = None
        gone = GroupGone(group=self._name, epoch=self._epoch, reason=reason)
        self._launcher.send(group_reports.encode(gone))
        self._loop.after(1.0, partial(self.start, LOAD_S))

    def vanish(self, lost_s: float) -> None:
        """Lose the whole machine; it comes back after the broker has given it up."""
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
