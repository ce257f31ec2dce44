"""Every job the broker holds, the queue of those that wait, and when ended ones expire."""

import heapq
from collections import Counter
from collections.abc import Iterator

from broker.dispatch.job_queue import JobQueue
from broker.dispatch.job_record import Job
from broker.wire.job import JobState


class JobTable:
    """The jobs by id, and the queue of those that wait.

    Args:
        priority_step_s: How many seconds of waiting one level of priority is worth.
    """

    def __init__(self, priority_step_s: float) -> None:
        self._jobs: dict[str, Job] = {}
        self.queue = JobQueue(self._jobs, priority_step_s)
        self._ended: list[tuple[float, int, str]] = []
        self._images: Counter[str] = Counter()
        self._keys: dict[tuple[str | None, str], str] = {}
        self._last_number = 0

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def of_key(self, owner: str | None, key: str) -> Job | None:
        job_id = self._keys.get((owner, key))
        return None if job_id is None else self._jobs[job_id]

    def __iter__(self) -> Iterator[Job]:
        """Yield every job in the order of submission."""
        return iter(self._jobs.values())

    def take_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def put(self, job: Job, ended_s: float | None = None) -> None:
        """Take a new job, or a new version of a known one.

        `ended_s` is when an ended job ended; None stands for the time of its last change.
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

    def position(self, job: Job) -> int | None:
        return self.queue.position(job) if job.state is JobState.IN_QUEUE else None

    def pop_expired(self, ended_before_s: float) -> Iterator[Job]:
        while self._ended and self._ended[0][0] <= ended_before_s:
            _, number, job_id = heapq.heappop(self._ended)
            job = self._jobs.get(job_id)
            # A removed job leaves its entry here, and its id may be in use again.
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
        return self._images[image] > 0

    def _leave(self, job: Job | None) -> None:
        if job is not None and job.state is JobState.IN_QUEUE:
            self.queue.remove(job)

    def _enter(self, job: Job, ended_s: float) -> None:
        if job.state is JobState.IN_QUEUE:
            self.queue.add(job, job.updated_at)
        elif job.state.is_terminal:
            heapq.heappush(self._ended, (ended_s, job.number, job.job_id))
