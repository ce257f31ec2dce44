"""Which job runs where: events and time in, commands out; no socket, no file, no clock."""

from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec

from broker.dispatch.commands import (
    Command,
    Event,
    GroupsNamed,
    JobNotStored,
    JobStored,
    Reply,
    ReportDrained,
    StopLaunchers,
    ToGroup,
    WatchersChanged,
)
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.group_lifecycle import GroupLifecycle
from broker.dispatch.groups import Group
from broker.dispatch.intake import Intake
from broker.dispatch.job_record import Job
from broker.dispatch.preemption import Preemption
from broker.dispatch.runs import Attempts
from broker.wire.job import GroupShape
from broker.wire.protocol import (
    CancelJob,
    DeleteJob,
    DrainBegun,
    DrainBroker,
    DrainGroup,
    DrainServer,
    GroupGone,
    GroupLost,
    GroupReady,
    GroupStarted,
    HealthFound,
    Heartbeat,
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    JobView,
    Lease,
    OfferJob,
    RemoveExpired,
    RunJob,
    StepDone,
    SubmitJob,
)

# A restarted broker numbers on from far above all that the last one may have published.
_RESTART_SEQ_GAP = 1_000_000


class Dispatcher:
    """Decides; others carry out.

    Commands are to be carried out in their order, and none that follows a `SaveJob` before that
    is on disk. `now_s` is a time that never goes back.

    Args:
        shape: What every group can run; None where groups of other machines may join and be lost.
        max_queue: Jobs that may wait.
        job_ttl_s: How long a finished job is kept.
        restored: What the journal holds, the earliest submission first.
        now_s: The time of the start.
        step_limit_s: How long a denoising step may always take.
        retry_pauses_s: How long a job waits after each lost attempt but the last.
        lost_s: After which silence a machine is given up that may be lost.
        priority_step_s: How much waiting a level of priority is worth.
    """

    def __init__(
        self,
        shape: GroupShape | None,
        max_queue: int,
        job_ttl_s: float,
        restored: Iterable[Job] = (),
        now_s: float = 0.0,
        step_limit_s: float = 60.0,
        retry_pauses_s: Sequence[float] = (5.0, 30.0),
        lost_s: float = 30.0,
        priority_step_s: float = 3600.0,
    ) -> None:
        self._board = DispatchState(priority_step_s)
        self._intake = Intake(self._board, shape, max_queue, job_ttl_s, lost_s)
        self._runs = Attempts(self._board, retry_pauses_s)
        silence_s = lost_s if shape is None else None
        self._lives = GroupLifecycle(self._board, self._runs, step_limit_s, silence_s)
        self._preemption = Preemption(self._board)
        self._told_drained = False
        self._latest_s = 0.0
        for job in restored:
            self._restore(job, now_s)

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Return what is to be done about an event."""
        self._board.awake.advance(now_s)
        match event:
            case OfferJob() | SubmitJob() | CancelJob() | DeleteJob() | RemoveExpired():
                self._intake.handle(event, now_s)
            case JobStored() | JobNotStored():
                self._intake.handle(event, now_s)
            case GroupStarted() | GroupReady() | GroupGone() | GroupLost() | DrainGroup():
                self._lives.handle(event, now_s)
                if isinstance(event, GroupReady):
                    self._intake.learn(event, now_s)
            case (
                StepDone()
                | JobStarted()
                | JobDecoded()
                | JobDelayed()
                | JobFinished()
                | JobFailed()
                | JobStopped()
            ):
                self._runs.handle(event, now_s)
                self._lives.report_drained(event.lease.group)
            case GroupsNamed():
                self._lives.drop_unknown_groups(event.groups, now_s)
            case WatchersChanged():
                self._board.watch(event.job_id, event.watched, now_s)
            case DrainBroker():
                self._board.draining, self._told_drained = True, False
            case DrainServer():
                self._board.draining = True
                self._board.emit(StopLaunchers())
                self._board.emit(Reply(DrainBegun(running=self.health().running)))
            case _:
                assert_never(event)
        return self._settle(now_s)

    def hear(self, beat: Heartbeat, now_s: float) -> None:
        """Take a beat: nothing is to be done about it before the next `tick`."""
        self._lives.hear(beat, now_s)

    def hear_again(self, report: GroupStarted, now_s: float) -> bool:
        """Take what a launcher repeats, as a beat; False if it is news that has to be handled."""
        return self._lives.hear_again(report, now_s)

    def tick(self, now_s: float) -> list[Command]:
        """Return what is to be done because time has passed."""
        self._board.awake.advance(now_s)
        self._lives.kill_hung_groups(now_s)
        self._intake.remove_expired(now_s)
        return self._settle(now_s)

    def jobs(self) -> Iterable[Job]:
        """Return every job that has not expired, the earliest submission first."""
        return self._board.jobs

    def groups(self) -> Iterable[Group]:
        """Return every group that was ever heard of, in its latest life."""
        return self._board.groups.look()

    def views(self, now_s: float) -> list[JobView]:
        """Return how every job is, the earliest submission first."""
        return [self._board.view(job, now_s) for job in self._board.jobs]

    def job(self, job_id: str) -> Job | None:
        """Return a job; None if it is unknown or has expired."""
        return self._board.jobs.get(job_id)

    def eta_s(self, job_id: str, now_s: float) -> float | None:
        """Return in how many seconds a job will have ended; None while nothing tells."""
        job = self._board.jobs.get(job_id)
        return None if job is None else self._board.eta_s(job, now_s)

    def queue_position(self, job_id: str) -> int | None:
        """Return the place of a job in the queue; None if it does not wait."""
        return self._board.position(job_id)

    def is_running(self, lease: Lease) -> bool:
        """Whether a lease is in force, and its job has not been cancelled meanwhile."""
        job = self._board.jobs.get(lease.job_id)
        return (
            job is not None and job.lease == lease and self._board.find_attempt(lease) is not None
        )

    def uses_image(self, image: str) -> bool:
        """Whether a job needs an image, be it one that is not stored yet."""
        return self._intake.uses_image(image)

    def health(self) -> HealthFound:
        """Return how groups and queue are."""
        return self._board.health()

    def _settle(self, now_s: float) -> list[Command]:
        """Give free groups their next jobs, then return all that has come up."""
        if not self._board.draining:
            self._give_jobs(now_s)
            self._preemption.preempt()
        self._board.publish_positions(now_s)
        self._tell_drained()
        return self._board.take_commands()

    def _give_jobs(self, now_s: float) -> None:
        queue = self._board.jobs.queue
        queue.wake(now_s)
        while len(queue):
            pairs = ((queue.first_for(shape), group) for shape, group in self._board.groups.free())
            found = [(job, group) for job, group in pairs if job is not None]
            if not found:
                return
            self._give_job(*min(found, key=lambda pair: queue.place(pair[0])), now_s)

    def _give_job(self, job: Job, group: Group, now_s: float) -> None:
        lease = Lease(
            group=group.name, epoch=group.epoch, job_id=job.job_id, attempt=job.attempt + 1
        )
        run = self._board.new_attempt(job, lease, now_s)
        run.expect_start(self._board.awake.now_s)
        group.runs[job.job_id] = run
        self._board.save(job.leased(lease, now_s), now_s)
        self._board.emit(ToGroup(group.name, RunJob(lease=lease, spec=job.spec, image=job.image)))

    def _tell_drained(self) -> None:
        if not self._board.draining or self._told_drained:
            return
        if self._board.groups.runs_nothing:
            self._told_drained = True
            self._board.emit(ReportDrained())

    def _restore(self, job: Job, now_s: float) -> None:
        # The clock may have been set back since: nothing is younger than now.
        job = msgspec.structs.replace(
            job, created_at=min(job.created_at, now_s), updated_at=min(job.updated_at, now_s)
        )
        if job.state.is_terminal:
            self._intake.restore_ended(job, now_s)
            return
        # Nor is a job older than one that was submitted before it: the order goes by that.
        self._latest_s = max(self._latest_s, job.created_at)
        job = msgspec.structs.replace(
            job, created_at=self._latest_s, seq=job.seq + _RESTART_SEQ_GAP
        )
        self._board.jobs.put(job)
        if job.lease is not None:
            self._lives.adopt(job, job.lease, now_s)
