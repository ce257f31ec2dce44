"""The jobs that wait: the place of each, and which one is next for a kind of group."""

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from operator import add, sub

from broker.dispatch.job_record import Job
from broker.dispatch.pace import NO_WORK, Work, work_of
from broker.dispatch.sorted_queue import SortedQueue, SortKey
from broker.wire.job import GroupShape, can_run


class Queue:
    """One line of all that wait, and one for each shape of group, of those it can run now.

    The order is that of submission, as if a job had been submitted earlier by so much a level of
    its priority. It never changes, so a job of any priority comes to the front in the end, and one
    that comes back has its old place. There are as many lines as there are kinds of machines,
    however many kinds of jobs clients think of.

    Args:
        jobs: The latest version of every job, by id.
        priority_step_s: How much waiting a level of priority is worth.
    """

    def __init__(self, jobs: Mapping[str, Job], priority_step_s: float) -> None:
        self._jobs = jobs
        self._priority_step_s = priority_step_s
        self._line = SortedQueue()
        self._lines: dict[GroupShape, SortedQueue] = {}
        self._lines_of: dict[str, list[SortedQueue]] = {}
        """The lines of the shapes that can run a job, be it due or not."""
        self._unfit: dict[str, None] = {}
        self._resting: dict[str, float] = {}
        self._due: list[tuple[float, str]] = []
        self._num_of: Counter[str | None] = Counter()
        self._num_at: Counter[int] = Counter()
        self.work = NO_WORK
        """What all of them together have to do."""

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[Job]:
        """Yield the jobs, the next one first."""
        return (self._jobs[job_id] for job_id in self._line)

    @property
    def num_moves(self) -> int:
        """Rises whenever jobs may have come to other places."""
        return self._line.num_moves

    @property
    def shapes(self) -> Collection[GroupShape]:
        """What the groups can run that there were so far."""
        return self._lines.keys()

    @property
    def highest_priority(self) -> int | None:
        """The priority of the most urgent job; None if there is none."""
        return max((priority for priority, num in self._num_at.items() if num), default=None)

    def num_of(self, owner: str | None) -> int:
        """Return how many jobs of an owner wait."""
        return self._num_of[owner]

    def position(self, job: Job) -> int:
        """Return the place of a job that waits, 1 for the next one."""
        return self._line.num_before(self.place(job), job.job_id) + 1

    def place(self, job: Job) -> SortKey:
        """Return what the order goes by, be it of a job that waits or of one that runs."""
        return job.created_at - job.priority * self._priority_step_s, job.number

    def line(self, shape: GroupShape) -> Iterator[str]:
        """Yield the ids of the jobs that are due for groups of this shape, the next one first."""
        return iter(self._lines.get(shape, ()))

    def first_for(self, shape: GroupShape, besides: Collection[str] = ()) -> Job | None:
        """Return the next job for a group of this shape; None if it can run none that is due."""
        job_id = next((job_id for job_id in self.line(shape) if job_id not in besides), None)
        return None if job_id is None else self._jobs[job_id]

    def unfit(self) -> list[Job]:
        """Return the jobs that no group can run that has told its shape."""
        return [self._jobs[job_id] for job_id in self._unfit]

    def learn(self, shape: GroupShape) -> None:
        """Keep a line for groups of this shape from now on."""
        if shape in self._lines:
            return
        line = self._lines[shape] = SortedQueue()
        for job in self:
            if can_run(job.spec, shape):
                self._lines_of[job.job_id].append(line)
                self._unfit.pop(job.job_id, None)
                if job.job_id not in self._resting:
                    line.add(self.place(job), job.job_id)

    def add(self, job: Job, now_s: float) -> None:
        """Let a job wait, before its time comes only for its place."""
        self._line.add(self.place(job), job.job_id)
        self._num_of[job.owner] += 1
        self._num_at[job.priority] += 1
        self.work = Work(*map(add, self.work, work_of(job.spec)))
        lines = [line for shape, line in self._lines.items() if can_run(job.spec, shape)]
        self._lines_of[job.job_id] = lines
        if not lines:
            self._unfit[job.job_id] = None
        if job.due_at > now_s:
            self._resting[job.job_id] = job.due_at
            heapq.heappush(self._due, (job.due_at, job.job_id))
        else:
            self._offer(job)

    def remove(self, job: Job) -> None:
        """Take a job out of all lines."""
        self._line.remove(self.place(job), job.job_id)
        self._num_of[job.owner] -= 1
        self._num_at[job.priority] -= 1
        self.work = Work(*map(sub, self.work, work_of(job.spec)))
        self._unfit.pop(job.job_id, None)
        lines = self._lines_of.pop(job.job_id)
        if self._resting.pop(job.job_id, None) is None:
            for line in lines:
                line.remove(self.place(job), job.job_id)

    def wake(self, now_s: float) -> None:
        """Offer the jobs to groups whose time has come."""
        while self._due and self._due[0][0] <= now_s:
            due_at, job_id = heapq.heappop(self._due)
            # One that was cancelled has left its entry, and its id may be in use again.
            if self._resting.get(job_id) == due_at:
                del self._resting[job_id]
                self._offer(self._jobs[job_id])

    def _offer(self, job: Job) -> None:
        for line in self._lines_of[job.job_id]:
            line.add(self.place(job), job.job_id)
