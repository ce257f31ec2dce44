"""Every job the broker holds, the order in which they wait, and when they expire."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from operator import add, sub

from broker.job import JobState
from broker.progress import NO_WORK, Work, work_of
from broker.record import Job
from broker.waiting import WaitingLine


class JobTable:
    """The jobs by id, with the waiting ones in the order of their submission.

    A job that comes back to the queue was submitted before all that were never started, so the
    order of submission alone puts it in front.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._line = WaitingLine()
        self._waiting_of: Counter[str | None] = Counter()
        self._ended: list[tuple[float, int, str]] = []
        self._images: Counter[str] = Counter()
        self._keys: dict[tuple[str | None, str], str] = {}
        self._last_number = 0
        self.waiting_work = NO_WORK
        """What all waiting jobs together have to do."""

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def get(self, job_id: str) -> Job | None:
        """Return a job; None if it is unknown or has expired."""
        return self._jobs.get(job_id)

    def of_key(self, owner: str | None, key: str) -> Job | None:
        """Return the job that an owner submitted under an idempotency key."""
        job_id = self._keys.get((owner, key))
        return None if job_id is None else self._jobs[job_id]

    def __iter__(self) -> Iterator[Job]:
        """Yield every job, in the order in which they were taken in."""
        return iter(self._jobs.values())

    def take_number(self) -> int:
        """Return the next place in the order of submissions."""
        self._last_number += 1
        return self._last_number

    def put(self, job: Job, ended_s: float | None = None) -> None:
        """Take a new job, or the new version of a known one.

        Args:
            job: The job as it is now.
            ended_s: From when on its time is counted if it has ended; None is its last change.
        """
        before = self._jobs.get(job.job_id)
        self._jobs[job.job_id] = job
        self._last_number = max(self._last_number, job.number)
        if before is None:
            self._images[job.image] += 1
            if job.idempotency_key is not None:
                self._keys[job.owner, job.idempotency_key.key] = job.job_id
        if before is None or before.state is not job.state:
            self._leave(before)
            self._enter(job, job.updated_at if ended_s is None else ended_s)

    def waiting(self) -> Iterator[Job]:
        """Yield the waiting jobs, the next one first."""
        return (self._jobs[job_id] for job_id in self._line)

    @property
    def num_waiting(self) -> int:
        """How many jobs wait."""
        return len(self._line)

    @property
    def num_moves(self) -> int:
        """Rises whenever jobs that wait may have come to other places."""
        return self._line.num_moves

    def num_waiting_of(self, owner: str | None) -> int:
        """Return how many jobs of an owner wait."""
        return self._waiting_of[owner]

    def first_waiting(self, fits: Callable[[Job], bool]) -> Job | None:
        """Return the job that has waited longest, of those that fit."""
        return next((job for job in self.waiting() if fits(job)), None)

    def position(self, job: Job) -> int | None:
        """Return the place in the queue, 1 for the next job; None if the job does not wait."""
        if job.state is not JobState.IN_QUEUE:
            return None
        return self._line.num_before(job.number, job.job_id) + 1

    def pop_expired(self, ended_before_s: float) -> Iterator[Job]:
        """Remove and yield the jobs that ended before a moment."""
        while self._ended and self._ended[0][0] <= ended_before_s:
            _, number, job_id = heapq.heappop(self._ended)
            job = self._jobs.get(job_id)
            # One that was removed before has left its entry, and its id may be in use again.
            if job is not None and job.number == number:
                self.remove(job_id)
                yield job

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended."""
        job = self._jobs.pop(job_id)
        self._images[job.image] -= 1
        if job.idempotency_key is not None:
            del self._keys[job.owner, job.idempotency_key.key]

    def uses_image(self, image: str) -> bool:
        """Whether a job still needs the input of this name."""
        return self._images[image] > 0

    def _leave(self, job: Job | None) -> None:
        if job is not None and job.state is JobState.IN_QUEUE:
            self._line.remove(job.number, job.job_id)
            self._waiting_of[job.owner] -= 1
            self.waiting_work = Work(*map(sub, self.waiting_work, work_of(job.spec)))

    def _enter(self, job: Job, ended_s: float) -> None:
        if job.state is JobState.IN_QUEUE:
            self._line.add(job.number, job.job_id)
            self._waiting_of[job.owner] += 1
            self.waiting_work = Work(*map(add, self.waiting_work, work_of(job.spec)))
        elif job.state.is_terminal:
            heapq.heappush(self._ended, (ended_s, job.number, job.job_id))
