"""The dispatcher's picture of the world: jobs, groups, pace; and the commands it collects."""

import heapq

from broker.commands import Command, Publish, SaveJob
from broker.groups import Group, Run
from broker.job import JobState
from broker.jobs import JobTable
from broker.liveness import AwakeClock
from broker.progress import Pace
from broker.protocol import HealthTold, JobView, Lease
from broker.record import Job


class Board:
    """What is known now; every change of a job goes through it, so that none goes untold."""

    def __init__(self) -> None:
        self.jobs = JobTable()
        self.groups: dict[str, Group] = {}
        self.pace = Pace()
        self.awake = AwakeClock()
        self.draining = False
        self._positions: dict[str, int] = {}
        self._commands: list[Command] = []

    def emit(self, command: Command) -> None:
        """Ask for something to be done, after all that was asked for before."""
        self._commands.append(command)

    def take_commands(self) -> list[Command]:
        """Return what has been asked for since the last call."""
        commands, self._commands = self._commands, []
        return commands

    def save(self, job: Job, now_s: float) -> None:
        """Take a new version of a job, for the journal and for all who watch."""
        self.jobs.put(job)
        self.emit(SaveJob(job))
        self.publish(job, now_s)

    def publish(self, job: Job, now_s: float) -> None:
        """Take a new version of a job that the journal need not know."""
        self.jobs.put(job)
        self.emit(Publish(self.view(job, now_s)))

    def publish_positions(self, now_s: float) -> None:
        """Tell every waiting job that has another place than it was last told."""
        waiting = list(self.jobs.waiting())
        before = self._positions
        self._positions = {job.job_id: place for place, job in enumerate(waiting, 1)}
        if before == self._positions:
            return
        waits_s = self._waits_s(now_s)
        for place, job in enumerate(waiting, 1):
            if before.get(job.job_id, place) != place:
                moved = job.changed(now_s)
                self.jobs.put(moved)
                self.emit(Publish(moved.view(place, waits_s.get(job.job_id))))

    def view(self, job: Job, now_s: float) -> JobView:
        """Return what clients may know of a job now."""
        return job.view(self.jobs.position(job), self.eta_s(job, now_s))

    def eta_s(self, job: Job, now_s: float) -> float | None:
        """Return in how many seconds a job will have ended; None while nothing tells."""
        if job.state is JobState.IN_QUEUE:
            return self._waits_s(now_s).get(job.job_id)
        run = None if job.lease is None else self.find_run(job.lease)
        return None if run is None else self.pace.remaining_s(job.spec, run.mark, now_s)

    def find_run(self, lease: Lease) -> Run | None:
        """Return the run of a lease; None if the lease is not, or no longer, in force."""
        group = self.groups.get(lease.group)
        return None if group is None else group.find(lease)

    def next_end_s(self, now_s: float) -> float | None:
        """Return in how many seconds a place in the queue will be free."""
        return min(self._busy_s(now_s), default=None)

    def health(self) -> HealthTold:
        """Return how groups and queue are."""
        groups = [group.view(self.awake.now_s) for group in self.groups.values()]
        return HealthTold(
            ready=not self.draining and any(group.ready for group in groups),
            draining=self.draining,
            queued=self.jobs.num_waiting,
            running=sum(len(group.runs) for group in self.groups.values()),
            groups=groups,
        )

    def _waits_s(self, now_s: float) -> dict[str, float]:
        """Return for each waiting job when it will have ended, as far as that can be told."""
        busy_s = self._busy_s(now_s)
        heapq.heapify(busy_s)
        waits_s: dict[str, float] = {}
        for job in self.jobs.waiting():
            run_s = self.pace.run_s(job.spec)
            if run_s is None or not busy_s:
                break
            waits_s[job.job_id] = heapq.heappushpop(busy_s, busy_s[0] + run_s) + run_s
        return waits_s

    def _busy_s(self, now_s: float) -> list[float]:
        return [self._group_busy_s(group, now_s) for group in self.groups.values() if group.ready]

    def _group_busy_s(self, group: Group, now_s: float) -> float:
        run = group.computing
        job = None if run is None else self.jobs.get(run.lease.job_id)
        if run is None or job is None or job.state.is_terminal:
            return 0.0
        return self.pace.remaining_s(job.spec, run.mark, now_s) or 0.0
