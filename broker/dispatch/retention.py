"""The ended jobs: which of them are kept, and in which order the others expire."""

from collections.abc import Iterator

from broker.dispatch.job_record import Job
from broker.dispatch.sorted_queue import SortedQueue, SortKey


class Retention:
    """Ended jobs by the time from which their age counts; kept ones have no age."""

    def __init__(self) -> None:
        self._expiring = SortedQueue()
        self._keys: dict[str, SortKey] = {}
        self._kept: dict[str | None, set[str]] = {}
        """By owner."""

    def __len__(self) -> int:
        return len(self._expiring) + sum(map(len, self._kept.values()))

    def add(self, job: Job, from_s: float) -> None:
        self._keys[job.job_id] = (from_s, job.number)
        self._expiring.add((self._keys[job.job_id], job.job_id))

    def remove(self, job: Job) -> None:
        if job.job_id in self._keys:
            self._expiring.remove((self._keys.pop(job.job_id), job.job_id))
            return
        self._kept[job.owner].remove(job.job_id)

    def keep(self, job: Job) -> None:
        self.remove(job)
        self._kept.setdefault(job.owner, set()).add(job.job_id)

    def let_go(self, job: Job, now_s: float) -> None:
        """Have a kept job expire again; its age counts from now."""
        self.remove(job)
        self.add(job, now_s)

    def is_kept(self, job: Job) -> bool:
        return job.job_id in self._kept.get(job.owner, ())

    def num_kept(self, owner: str | None) -> int:
        return len(self._kept.get(owner, ()))

    def from_s(self, job_id: str) -> float | None:
        """Return when an ended job began to age; None if it is kept."""
        key = self._keys.get(job_id)
        return None if key is None else key[0]

    def aged(self, from_s: float) -> Iterator[str]:
        """Yield the jobs whose age counts from that time or an earlier one, the oldest first."""
        for job_id in self._expiring:
            if self._keys[job_id][0] > from_s:
                return
            yield job_id
