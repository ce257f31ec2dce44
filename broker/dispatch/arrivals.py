"""New jobs on their way to the journal, indexed: no question costs more because more arrive."""

from collections.abc import Hashable, Iterable
from typing import NamedTuple, TypeVar

from broker.dispatch.commands import Client
from broker.dispatch.job_record import Job

Name = TypeVar("Name", bound=Hashable)


class Arrival(NamedTuple):
    """A new job, and the clients that wait for its admission."""

    job: Job
    clients: list[Client]


class Arrivals:
    """The new jobs by id. A batch holds one of each client, which may be hundreds."""

    def __init__(self) -> None:
        self._by_id: dict[str, Arrival] = {}
        self._by_key: dict[tuple[str | None, str], Job] = {}
        self._num_of: dict[str | None, int] = {}
        """By owner."""
        self._images: dict[str, int] = {}
        """How many of them need an image."""

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, job_id: str) -> Arrival | None:
        return self._by_id.get(job_id)

    def of_key(self, owner: str | None, key: str) -> Job | None:
        return self._by_key.get((owner, key))

    def num_of(self, owner: str | None) -> int:
        return self._num_of.get(owner, 0)

    def uses_image(self, image: str) -> bool:
        return image in self._images

    def add(self, job: Job, client: Client) -> None:
        self._by_id[job.job_id] = Arrival(job, [client])
        if job.idempotency_key is not None:
            self._by_key[job.owner, job.idempotency_key.key] = job
        _count(self._num_of, [job.owner], 1)
        _count(self._images, job.images, 1)

    def pop(self, job_id: str) -> Arrival:
        arrival = self._by_id.pop(job_id)
        job = arrival.job
        if job.idempotency_key is not None:
            del self._by_key[job.owner, job.idempotency_key.key]
        _count(self._num_of, [job.owner], -1)
        _count(self._images, job.images, -1)
        return arrival


def _count(counts: dict[Name, int], names: Iterable[Name], change: int) -> None:
    """Add to the counts of names, and forget those that are zero."""
    for name in names:
        counts[name] = counts.get(name, 0) + change
        if not counts[name]:
            del counts[name]
