"""The jobs that wait: their order, and which one is next for each shape of group."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from operator import add, sub

from broker.dispatch.job_record import Job
from broker.dispatch.pace import NO_WORK, Work, work_of
from broker.dispatch.sorted_queue import Entry, SortedQueue, SortKey
from broker.wire.group_shape import GroupShape, can_run


class JobQueue:
    """One sorted queue of all waiting jobs, and one of those that each shape of group can run now.

    Jobs are ordered by their submission, as if each level of priority had brought it forward by a
    fixed time. A sort key never changes, so that a job of any priority becomes the next one in the
    end, and a job that returns has its old position. There are as many queues as there are shapes
    of groups, however many kinds of jobs there are.

    Args:
        jobs: The latest version of every job, by id.
        priority_step_s: How many seconds of waiting one level of priority is worth.
    """

    def __init__(self, jobs: Mapping[str, Job], priority_step_s: float) -> None:
        self._jobs = jobs
        self._priority_step_s = priority_step_s
        self._all = SortedQueue()
        self._due_for: dict[GroupShape, SortedQueue] = {}
        self._queues_of: dict[str, tuple[SortedQueue, ...]] = {}
        """The queues of the shapes that can run a job, due or not."""
        self._unfit: dict[str | None, dict[str, None]] = defaultdict(dict)
        """By model."""
        self._of_model: dict[str | None, SortedQueue] = defaultdict(SortedQueue)
        self._work_of: dict[str | None, Work] = defaultdict(lambda: NO_WORK)
        """Of all waiting jobs of a model together."""
        self._pausing: dict[str, float] = {}
        self._due: list[tuple[float, str]] = []
        self._num_of: Counter[str | None] = Counter()
        self._num_at: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Job]:
        """Yield the jobs, the next one first."""
        return (self._jobs[job_id] for job_id in self._all)

    def of_model(self, model: str | None) -> Iterator[Job]:
        """Yield the jobs of a model, the next one first."""
        return (self._jobs[job_id] for job_id in self._of_model.get(model, ()))

    def num_of_model(self, model: str | None) -> int:
        return len(self._of_model.get(model, ()))

    def num_ahead(self, job: Job) -> int:
        """Return how many jobs of the same model come first."""
        return self._of_model[job.spec.model].num_before(self._entry(job))

    def work_of(self, model: str | None) -> Work:
        return self._work_of[model]

    @property
    def num_moves(self) -> int:
        return self._all.num_moves

    @property
    def shapes(self) -> Collection[GroupShape]:
        return self._due_for.keys()

    @property
    def highest_priority(self) -> int | None:
        return max((priority for priority, num in self._num_at.items() if num), default=None)

    def num_of(self, owner: str | None) -> int:
        return self._num_of[owner]

    def position(self, job: Job) -> int:
        """Return the queue position; 1 is next."""
        return self._all.num_before(self._entry(job)) + 1

    def sort_key(self, job: Job) -> SortKey:
        return job.created_at - job.priority * self._priority_step_s, job.number

    def due_for(self, shape: GroupShape) -> Iterator[str]:
        """Yield the ids of the jobs that groups of a shape can run now, the next one first."""
        return iter(self._due_for.get(shape, ()))

    def first_for(self, shape: GroupShape, excluded: Collection[str] = ()) -> Job | None:
        job_id = next((job_id for job_id in self.due_for(shape) if job_id not in excluded), None)
        return None if job_id is None else self._jobs[job_id]

    def unfit(self, model: str) -> list[Job]:
        """Return the jobs of a model that no group so far can run."""
        return [self._jobs[job_id] for job_id in self._unfit.get(model, ())]

    def learn(self, shape: GroupShape) -> None:
        if shape in self._due_for:
            return
        queue = self._due_for[shape] = SortedQueue()
        for job in self.of_model(shape.model.name):
            if can_run(job.spec, shape):
                self._queues_of[job.job_id] += (queue,)
                self._unfit[job.spec.model].pop(job.job_id, None)
                if job.job_id not in self._pausing:
                    queue.add(self._entry(job))

    def add(self, job: Job, now_s: float) -> None:
        entry = self._entry(job)
        self._all.add(entry)
        self._num_of[job.owner] += 1
        self._num_at[job.priority] += 1
        model = job.spec.model
        self._of_model[model].add(entry)
        self._work_of[model] = Work(*map(add, self._work_of[model], work_of(job.spec)))
        queues = tuple(queue for shape, queue in self._due_for.items() if can_run(job.spec, shape))
        self._queues_of[job.job_id] = queues
        if not queues:
            self._unfit[model][job.job_id] = None
        if job.due_at > now_s:
            # It has a position, but no group gets it yet.
            self._pausing[job.job_id] = job.due_at
            heapq.heappush(self._due, (job.due_at, job.job_id))
        else:
            self._offer(entry)

    def remove(self, job: Job) -> None:
        entry = self._entry(job)
        self._all.remove(entry)
        self._num_of[job.owner] -= 1
        self._num_at[job.priority] -= 1
        model = job.spec.model
        self._of_model[model].remove(entry)
        self._work_of[model] = Work(*map(sub, self._work_of[model], work_of(job.spec)))
        self._unfit[model].pop(job.job_id, None)
        queues = self._queues_of.pop(job.job_id)
        if self._pausing.pop(job.job_id, None) is None:
            for queue in queues:
                queue.remove(entry)

    def wake(self, now_s: float) -> None:
        while self._due and self._due[0][0] <= now_s:
            due_at, job_id = heapq.heappop(self._due)
            # A cancelled job leaves its entry here, and its id may be in use again.
            if self._pausing.get(job_id) == due_at:
                del self._pausing[job_id]
                self._offer(self._entry(self._jobs[job_id]))

    def _offer(self, entry: Entry) -> None:
        for queue in self._queues_of[entry[1]]:
            queue.add(entry)

    def _entry(self, job: Job) -> Entry:
        return self.sort_key(job), job.job_id
