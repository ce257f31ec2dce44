"""A dispatcher with a given number of waiting jobs and groups, to measure what each event costs."""

from msgspec import structs

from broker.dispatch.commands import Command, JobAdmitted
from broker.dispatch.dispatcher import Dispatcher
from broker.wire.group_reports import (
    GroupGone,
    GroupReady,
    GroupStarted,
    JobDecoded,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import Heartbeat, StepDone
from broker.wire.requests import CancelJob, SubmitJob
from tests.broker.dispatch.scene import CLIENT, preempted, run_commands
from tests.broker.driver import IMAGE, POLICY, SHAPE, SPEC

NUM_STEPS = 20


class LongQueue:
    """A dispatcher whose groups all run a job while the other jobs wait, with a known pace.

    All events concern the group `a`.
    """

    def __init__(self, num_queued: int, num_groups: int = 1) -> None:
        self._dispatcher = Dispatcher(structs.replace(POLICY, max_queue=num_queued + 10))
        self._now_s = 0.0
        self._num_submitted = 0
        self._epoch = 0
        self._first_waiting = 1
        """The lowest number of a waiting job."""
        self._cancelled: set[int] = set()
        for number in range(1, num_groups):
            self._start(f"g{number}", 1)
            lease = self._take(self.submit())
            self._dispatcher.handle(JobStarted(lease=lease), self._now_s)
        self._new_life()
        self._computing = self._take(self.submit())
        self._saving = self._urgent = self._computing
        self._dispatcher.handle(JobStarted(lease=self._computing), self._now_s)
        self._teach_pace()
        for _ in range(num_queued + 1):
            self.submit()
        self.dispatch()

    def submit(self) -> list[Command]:
        """Submit a job; it is last in the queue."""
        return self._submit()

    def _submit(self, priority: int = 0) -> list[Command]:
        self._num_submitted += 1
        job_id = _job_id(self._num_submitted)
        message = SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE, priority=priority)
        self._dispatcher.handle(message, self._now_s, CLIENT)
        return self._dispatcher.handle(JobAdmitted(job_id), self._now_s)

    def dispatch(self) -> list[Command]:
        """Report a job as decoded, so that the group gets the next one."""
        self._saving = self._computing
        commands = self._dispatcher.handle(JobDecoded(lease=self._saving), self._now_s)
        self._computing = self._take(commands)
        self._dispatcher.handle(JobStarted(lease=self._computing), self._now_s)
        return commands

    def finish(self) -> list[Command]:
        """Report the video of the job decoded last."""
        video = f"{self._saving.job_id}.mp4"
        return self._dispatcher.handle(JobFinished(lease=self._saving, video=video), self._now_s)

    def cancel(self) -> list[Command]:
        """Cancel the job in the middle of the queue."""
        job_id = self._middle()
        self._cancelled.add(int(job_id, 16))
        return self._dispatcher.handle(CancelJob(job_id=job_id), self._now_s, CLIENT)

    def ask(self) -> tuple[int | None, float | None]:
        """Return queue position and remaining seconds of the job in the middle of the queue."""
        job_id = self._middle()
        eta_s = self._dispatcher.eta_s(job_id, self._now_s)
        return self._dispatcher.queue_position(job_id), eta_s

    def repeat_ready(self) -> list[Command]:
        """Repeat the group's registration, as it does every other second."""
        return self._ready("a", self._epoch)

    def heartbeat(self) -> None:
        """Take a heartbeat of one rank, as each sends every second."""
        message = Heartbeat(
            group="a", epoch=self._epoch, rank=0, pid=1, device="test", stage=Stage.DENOISE, step=1,
            num_done=1, memory_bytes=0,
        )  # fmt: skip
        self._dispatcher.on_heartbeat(message, self._now_s)

    def lose(self) -> list[Command]:
        """Lose the group with its job, which is first in the queue, and start it again."""
        gone = GroupGone(group="a", epoch=self._epoch, reason="tested")
        self._dispatcher.handle(gone, self._now_s)
        commands = self._new_life()
        self._computing = self._take(commands)
        self._dispatcher.handle(JobStarted(lease=self._computing), self._now_s)
        return commands

    def preempt(self) -> list[Command]:
        """Submit an urgent job; one attempt makes way for it."""
        (lease,) = preempted(self._submit(priority=1))
        self._cancelled.add(self._num_submitted)  # by `cancel_urgent`
        commands = self._dispatcher.handle(JobStopped(lease=lease, preempted=True), self._now_s)
        self._urgent = self._lease(commands)
        self._dispatcher.handle(JobStarted(lease=self._urgent), self._now_s)
        return commands

    def cancel_urgent(self) -> list[Command]:
        """Cancel the urgent job, so that the preempted job runs again."""
        self._dispatcher.handle(CancelJob(job_id=self._urgent.job_id), self._now_s, CLIENT)
        commands = self._dispatcher.handle(JobStopped(lease=self._urgent), self._now_s)
        lease = self._lease(commands)
        self._dispatcher.handle(JobStarted(lease=lease), self._now_s)
        if lease.group == "a":
            self._computing = lease
        return commands

    def _new_life(self) -> list[Command]:
        self._epoch += 1
        return self._start("a", self._epoch)

    def _start(self, name: str, epoch: int) -> list[Command]:
        started = GroupStarted(group=name, epoch=epoch, world_size=8)
        self._dispatcher.handle(started, self._now_s)
        return self._ready(name, epoch)

    def _ready(self, name: str, epoch: int) -> list[Command]:
        ready = GroupReady(group=name, epoch=epoch, shape=SHAPE, device="test")
        return self._dispatcher.handle(ready, self._now_s)

    def _middle(self) -> str:
        number = (self._first_waiting + self._num_submitted) // 2
        while number in self._cancelled:
            number += 1
        return _job_id(number)

    def _take(self, commands: list[Command]) -> Lease:
        lease = self._lease(commands)
        self._first_waiting = int(lease.job_id, 16) + 1
        return lease

    def _lease(self, commands: list[Command]) -> Lease:
        (run,) = run_commands(commands)
        return run.lease

    def _teach_pace(self) -> None:
        for step in range(1, NUM_STEPS + 1):
            self._now_s += 0.5
            report = StepDone(
                lease=self._computing, stage=Stage.DENOISE, step=step, num_steps=NUM_STEPS
            )
            self._dispatcher.handle(report, self._now_s)


def _job_id(number: int) -> str:
    return f"{number:032x}"
