"""The dispatcher's picture of the world: jobs, groups, pace; and the commands it collects."""

import heapq
from itertools import islice

from broker.dispatch.commands import Command, Publish, SaveJob
from broker.dispatch.group_table import GroupTable
from broker.dispatch.groups import Attempt, Group
from broker.dispatch.job_record import Job
from broker.dispatch.job_table import JobTable
from broker.dispatch.liveness import AwakeClock
from broker.dispatch.pace import Pace, StageProgress, work_of
from broker.wire.job import JobState, Stage
from broker.wire.protocol import HealthFound, JobView, Lease

# So many of the jobs ahead are placed one by one to tell a waiting job's time; those between them
# and the job count by the average, so that telling it costs the same at any place.
_NUM_PLACED = 16
# So many groups are asked how long they will be busy; where there are more, those stand for all,
# with their share of the queue, so that telling it costs the same in any fleet.
_NUM_ASKED = 16


class DispatchState:
    """What is known now; every change of a job goes through it, so that none goes untold.

    Args:
        priority_step_s: How much waiting a level of priority is worth.
    """

    def __init__(self, priority_step_s: float) -> None:
        self.jobs = JobTable(priority_step_s)
        self.groups = GroupTable()
        self.pace = Pace()
        self.awake = AwakeClock()
        self.draining = False
        self._watched: set[str] = set()
        self._told_positions: dict[str, int] = {}
        self._num_moves_told = 0
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
        view = self.view(job, now_s)
        if view.queue_position is None:
            self._told_positions.pop(job.job_id, None)
        else:
            self._told_positions[job.job_id] = view.queue_position
        self.emit(Publish(view))

    def watch(self, job_id: str, watched: bool, now_s: float) -> None:
        """Tell from now on, or no longer, whenever a job comes to another place in the queue."""
        if watched:
            self._watched.add(job_id)
            self._publish_position(job_id, now_s)
        else:
            self._watched.discard(job_id)

    def publish_positions(self, now_s: float) -> None:
        """Tell of every watched job that has another place than was last told.

        Nobody hears of the others, so that a move costs the same however many jobs wait.
        """
        if self.jobs.queue.num_moves != self._num_moves_told:
            self._num_moves_told = self.jobs.queue.num_moves
            for job_id in list(self._watched):
                self._publish_position(job_id, now_s)

    def position(self, job_id: str) -> int | None:
        """Return the place of a job in the queue; None if it does not wait."""
        job = self.jobs.get(job_id)
        return None if job is None else self.jobs.position(job)

    def view(self, job: Job, now_s: float) -> JobView:
        """Return what clients may know of a job now."""
        return job.view(self.jobs.position(job), self.eta_s(job, now_s))

    def eta_s(self, job: Job, now_s: float) -> float | None:
        """Return in how many seconds a job will have ended; None while nothing tells."""
        if job.state is JobState.IN_QUEUE:
            return self._wait_s(job, now_s)
        run = None if job.lease is None else self.find_attempt(job.lease)
        return None if run is None else self.pace.remaining_s(job.spec, run.mark, now_s)

    def new_attempt(self, job: Job, lease: Lease, now_s: float) -> Attempt:
        """Return a run of a job, which the group is still to be told of or still to tell of."""
        mark = StageProgress(now_s, Stage.ENCODE)
        place = self.jobs.queue.place(job)
        return Attempt(lease, mark, priority=job.priority, place=place)

    def find_attempt(self, lease: Lease) -> Attempt | None:
        """Return the run of a lease; None if the lease is not, or no longer, in force."""
        group = self.groups.get(lease.group)
        return None if group is None else group.find(lease)

    def next_end_s(self, now_s: float) -> float | None:
        """Return in how many seconds a place in the queue will be free."""
        return min(self._busy_s(now_s), default=None)

    def health(self) -> HealthFound:
        """Return how groups and queue are."""
        groups = [group.view(self.awake.now_s) for group in self.groups.look()]
        return HealthFound(
            ready=not self.draining and any(group.ready for group in groups),
            draining=self.draining,
            queued=len(self.jobs.queue),
            running=sum(len(group.runs) for group in self.groups.look()),
            groups=groups,
        )

    def _publish_position(self, job_id: str, now_s: float) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            self._watched.discard(job_id)
        elif self.jobs.position(job) != self._told_positions.get(job_id):
            self.publish(job.changed(now_s), now_s)

    def _wait_s(self, job: Job, now_s: float) -> float | None:
        """Return in how many seconds a waiting job will have ended, as far as that can be told."""
        run_s = self.pace.run_s(work_of(job.spec))
        free_s = self._busy_s(now_s)
        if run_s is None or not free_s:
            return None
        heapq.heapify(free_s)
        num_ahead = (self.jobs.queue.position(job) - 1) * len(free_s) // self.groups.num_ready
        for ahead in islice(self.jobs.queue, min(num_ahead, _NUM_PLACED)):
            ahead_s = self.pace.run_s(work_of(ahead.spec)) or 0.0
            heapq.heapreplace(free_s, free_s[0] + ahead_s)
        if num_ahead <= _NUM_PLACED:
            return max(free_s[0], job.due_at - now_s) + run_s
        average_s = (self.pace.run_s(self.jobs.queue.work) or 0.0) / len(self.jobs.queue)
        between_s = (num_ahead - _NUM_PLACED) * average_s
        return (sum(free_s) + between_s) / len(free_s) + run_s

    def _busy_s(self, now_s: float) -> list[float]:
        """Return when the groups that are asked will be free; they stand for all of them."""
        asked = self.groups.some_ready(_NUM_ASKED)
        return [self._group_busy_s(group, now_s) for group in asked]

    def _group_busy_s(self, group: Group, now_s: float) -> float:
        run = group.computing
        job = None if run is None else self.jobs.get(run.lease.job_id)
        if run is None or job is None or job.state.is_terminal:
            return 0.0
        return self.pace.remaining_s(job.spec, run.mark, now_s) or 0.0
