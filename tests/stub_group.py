"""A group without torch: a real peer of the broker that speaks the real protocol.

In a test: `async with StubGroup(StubConfig(addresses=..., videos_dir=...)) as group`. As a process:
`python -m tests.stub_group JSON`, with a `StubConfig` as JSON; it ends on SIGTERM.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec
import zmq
import zmq.asyncio

from broker.process import child
from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.group_commands import (
    CancelRun,
    GroupCommand,
    KillGroup,
    PreemptRun,
    Reregister,
    RunJob,
    group_commands,
)
from broker.wire.group_reports import (
    REGISTER_EVERY_S,
    DrainBroker,
    GroupGone,
    GroupReady,
    GroupReport,
    GroupStarted,
    JobDecoded,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    group_reports,
)
from broker.wire.group_shape import GroupShape
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from broker.wire.rank_messages import Heartbeat, JobPreview, RankMessage, StepDone, rank_messages
from broker.wire.sockets import Addresses, connect_dealer, connect_pub

FAKE_VIDEO = b"\x00\x00\x00\x18ftypmp42" + b"a stand-in for a video " * 100

Behaviour = Literal["succeed", "fail", "die", "hang", "refuse", "never_stop"]
Command = TypeVar("Command", bound=GroupCommand)


class StubConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stub group behaves."""

    addresses: Addresses
    videos_dir: str
    group: str = "group-0"
    epoch: int = 1
    world_size: int = 8
    num_heads: int = 8
    model: ModelProfile = ModelProfile()
    num_steps: int | None = None
    """Denoising steps of every job; None takes the job's `infer_steps`."""
    step_s: float = 0.01
    save_s: float = 0.0
    """Seconds that saving takes; meanwhile the group is free for its next job."""
    behaviour: Behaviour = "succeed"
    """`fail`: report JobFailed; `die`: lose the group in the first step; `hang`: stop the steps but
    not the heartbeats; `refuse`: ignore RunJob; `never_stop`: ignore CancelRun."""
    beat_every_s: float = 1.0
    with_launcher: bool = True
    """Whether it also acts as the launcher: GroupStarted, and a new epoch on KillGroup."""
    parent_pid: int | None = None
    ready_fd: int | None = None


class StubGroup:
    """Rank 0, the heartbeats of all ranks, and by default the launcher of one group.

    A new `behaviour` applies to the next attempt; `hold.clear()` pauses every attempt before its
    next step. `await group.heard(RunJob)` waits for a command.
    """

    def __init__(self, config: StubConfig) -> None:
        self.config = config
        self.behaviour: Behaviour = config.behaviour
        self.warning: ResultWarning | None = None
        self.epoch = config.epoch
        self.received: list[GroupCommand] = []
        self.running: dict[str, Lease] = {}
        self._leavable: Lease | None = None
        """The attempt that PreemptRun may stop; None while it decodes."""
        self.hold = asyncio.Event()
        self.hold.set()
        self._outbox: asyncio.Queue[GroupReport] = asyncio.Queue()
        self._arrived = asyncio.Condition()
        self._last_reports: list[GroupReport] = []
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stage = Stage.IDLE
        self._step = self._num_done = 0
        self._context = zmq.asyncio.Context()
        self._rank = self._context.socket(zmq.DEALER)
        self._launcher = self._context.socket(zmq.DEALER)
        self._pub = self._context.socket(zmq.PUB)

    async def __aenter__(self) -> Self:
        addresses = self.config.addresses
        connect_pub(self._pub, addresses.beats)
        connect_dealer(self._rank, addresses.groups, "rank")
        self._start(self._listen(self._rank))
        self._start(self._send_reports())
        if self.config.with_launcher:
            connect_dealer(self._launcher, addresses.groups, "launcher")
            self._start(self._listen(self._launcher))
        self._start(_every(REGISTER_EVERY_S, self._register_again))
        self._start(_every(self.config.beat_every_s, self.beat))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await _end([*self._tasks, *self._runs.values()])
        self._context.destroy(linger=200)

    # --- for tests -------------------------------------------------------------------------------

    async def heard(self, kind: type[Command], count: int = 1, limit_s: float = 10.0) -> Command:
        """Wait for the `count`-th command of a type and return it."""

        def commands() -> list[Command]:
            return [command for command in self.received if isinstance(command, kind)]

        async with asyncio.timeout(limit_s), self._arrived:
            await self._arrived.wait_for(lambda: len(commands()) >= count)
        return commands()[count - 1]

    async def until_idle(self) -> None:
        """Wait until every attempt has ended; its last report may still wait for a broker."""
        await asyncio.gather(*self._runs.values())

    async def say(self, report: GroupReport) -> None:
        """Send any report as rank 0, true or false, as soon as a broker is connected."""
        await self._outbox.put(report)

    async def drain(self) -> None:
        """Ask the broker to drain, as the launcher does; then await `heard(Drained)`."""
        await self._launcher.send_multipart(group_reports.encode(DrainBroker()))

    async def stop_running(self) -> None:
        """End every attempt with JobStopped, as on SIGTERM."""
        for lease in list(self.running.values()):
            await self._leave(lease)

    async def new_life(self, reason: str) -> None:
        """Lose every attempt, as if all ranks had died, and start the next epoch."""
        runs, self._runs, self.running = list(self._runs.values()), {}, {}
        await _end([run for run in runs if run is not asyncio.current_task()])
        gone = GroupGone(group=self.config.group, epoch=self.epoch, reason=reason)
        await self._launcher.send_multipart(group_reports.encode(gone))
        self.epoch += 1
        self._stage, self._last_reports = Stage.IDLE, []
        await self.register()

    async def register(self) -> None:
        """Send GroupReady and, as the launcher, GroupStarted; also done every two seconds."""
        group = self.config.group
        if self.config.with_launcher:
            started = GroupStarted(group=group, epoch=self.epoch, world_size=self.config.world_size)
            await self._launcher.send_multipart(group_reports.encode(started))
        shape = GroupShape(
            world_size=self.config.world_size,
            num_heads=self.config.num_heads,
            model=self.config.model,
        )
        running = list(self.running.values())
        await self.say(
            GroupReady(group=group, epoch=self.epoch, shape=shape, device="stub", running=running)
        )

    async def beat(self, step: int | None = None) -> None:
        """Send a heartbeat for every rank, with any step; also done every second."""
        for rank in range(self.config.world_size):
            await self._publish(
                Heartbeat(
                    group=self.config.group,
                    epoch=self.epoch,
                    rank=rank,
                    pid=os.getpid(),
                    device="stub",
                    stage=self._stage,
                    step=self._step if step is None else step,
                    num_done=self._num_done,
                    memory_bytes=0,
                )
            )

    async def preview(self, lease: Lease, jpeg: bytes) -> None:
        """Publish a preview of any lease, whether or not this group holds it."""
        await self._publish(JobPreview(lease=lease, jpeg=jpeg))

    async def _register_again(self) -> None:
        if self._outbox.empty():
            await self.register()

    async def _send_reports(self) -> None:
        while True:
            report = await self._outbox.get()
            await self._rank.send_multipart(group_reports.encode(report))

    # --- commands --------------------------------------------------------------------------------

    async def _listen(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            command = group_commands.decode(await socket.recv_multipart())
            await self._obey(command)
            async with self._arrived:
                self.received.append(command)
                self._arrived.notify_all()

    async def _obey(self, command: GroupCommand) -> None:
        match command:
            case RunJob() if self.behaviour != "refuse":
                run = asyncio.create_task(self._run(command))
                self._runs[command.lease.job_id] = run
            case PreemptRun() if command.lease == self._leavable:
                await self._leave(command.lease, preempted=True)
            case CancelRun() if self.behaviour != "never_stop":
                await self._leave(command.lease)
            case KillGroup() if command.epoch == self.epoch:
                await self.new_life(command.reason)
            case Reregister():
                for report in self._last_reports:
                    await self.say(report)
                await self.register()
            case _:
                pass

    async def _leave(self, lease: Lease, preempted: bool = False) -> None:
        if self.running.get(lease.job_id) == lease:
            await _end([self._runs[lease.job_id]])
            await self._end_run(JobStopped(lease=lease, preempted=preempted))

    # --- an attempt ------------------------------------------------------------------------------

    async def _run(self, command: RunJob) -> None:
        lease = command.lease
        self.running[lease.job_id] = self._leavable = lease
        await self.say(JobStarted(lease=lease))
        await self._work(lease, Stage.ENCODE, 1)
        if self.behaviour == "fail":
            reason = "the stub was set to fail"
            await self._end_run(JobFailed(lease=lease, code=ErrorCode.RUN_FAILED, reason=reason))
            return
        await self._work(lease, Stage.DENOISE, self.config.num_steps or command.spec.infer_steps)
        self._leavable = None
        await self._work(lease, Stage.DECODE, 2)
        self._stage = Stage.IDLE
        await self.say(JobDecoded(lease=lease))
        await asyncio.sleep(self.config.save_s)
        video = f"{lease.job_id}.mp4"
        _write_whole(Path(self.config.videos_dir), video, lease.attempt)
        await self._end_run(JobFinished(lease=lease, video=video, warning=self.warning))

    async def _work(self, lease: Lease, stage: Stage, num_steps: int) -> None:
        self._stage = stage
        for step in range(1, num_steps + 1):
            await self.hold.wait()
            if self.behaviour == "hang":
                await asyncio.Event().wait()
            if self.behaviour == "die":
                await self._die()
            await asyncio.sleep(self.config.step_s)
            self._step, self._num_done = step, self._num_done + 1
            await self._publish(StepDone(lease=lease, stage=stage, step=step, num_steps=num_steps))

    async def _die(self) -> None:
        if not self.config.with_launcher:
            os._exit(139)
        self._start(self.new_life("the stub was set to die"))
        await asyncio.Event().wait()

    async def _end_run(self, report: JobFinished | JobFailed | JobStopped) -> None:
        del self.running[report.lease.job_id]
        self._runs.pop(report.lease.job_id, None)
        self._stage = Stage.IDLE
        self._last_reports = [*self._last_reports, report][-2:]
        await self.say(report)

    async def _publish(self, message: RankMessage) -> None:
        await self._pub.send_multipart(rank_messages.encode(message))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))


async def _every(period_s: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await act()
        await asyncio.sleep(period_s)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _write_whole(videos_dir: Path, video: str, attempt: int) -> None:
    """Write the fake video as rank 0 does: a partial file, fsync, rename, fsync of the folder."""
    partial = videos_dir / ".partial" / f"{video.removesuffix('.mp4')}.{attempt}.mp4"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        file.write(FAKE_VIDEO)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(videos_dir / video)
    folder = os.open(videos_dir, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def _serve(config: StubConfig) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with StubGroup(config) as group:
        child.report(config.ready_fd, "ready")
        await stopped.wait()
        await group.stop_running()


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=StubConfig)
    if config.parent_pid is not None:
        child.begin(config.group, config.parent_pid, "text")
    asyncio.run(_serve(config))


if __name__ == "__main__":
    main()
