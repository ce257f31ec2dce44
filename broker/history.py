"""What has been told of each job, for those who ask or missed something."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import dropwhile, islice

from broker.wire.protocol import JobsListed, JobView, ListJobs

_CHANGES_KEPT = 256
_FINISHED_KEPT_WHOLE = 200


class History:
    """The views of every job that have left the broker: never one that is not yet on disk."""

    def __init__(self, views: Iterable[JobView]) -> None:
        # Lists, since most jobs wait and have one view: an empty deque takes more than all of it.
        self._told: dict[str, list[JobView]] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        for view in views:
            self.add(view)

    def add(self, view: JobView) -> None:
        """Take a view that is about to be told."""
        told = self._told.setdefault(view.job_id, [])
        told.append(view)
        if len(told) > _CHANGES_KEPT:
            del told[0]
        if view.state.is_terminal:
            self._finished[view.job_id] = None
            self._shorten_oldest()

    def drop(self, job_id: str) -> None:
        """Forget a job."""
        self._told.pop(job_id, None)
        self._finished.pop(job_id, None)

    def latest(self, job_id: str, owner: str | None = None) -> JobView | None:
        """Return how a job is; None if it is unknown, or not this owner's."""
        told = self._told.get(job_id)
        return told[-1] if told and owner in (None, told[-1].owner) else None

    def after(self, job_id: str, seq: int, owner: str | None = None) -> list[JobView]:
        """Return the changes after `seq` that are still known, at least how the job is now."""
        told = self._told.get(job_id)
        if not told or owner not in (None, told[-1].owner):
            return []
        return [view for view in told if view.seq > seq] or [told[-1]]

    def page(self, request: ListJobs, limit: int) -> JobsListed:
        """Return how the jobs of an owner are, or of all for None."""
        told = self._told.values()
        views = (kept[-1] for kept in (told if request.oldest_first else reversed(told)))
        own: Iterator[JobView] = (view for view in views if request.owner in (None, view.owner))
        if request.after is not None:
            own = islice(dropwhile(lambda view: view.job_id != request.after, own), 1, None)
        jobs = list(islice(own, limit + 1))
        return JobsListed(jobs=jobs[:limit], has_more=len(jobs) > limit)

    def _shorten_oldest(self) -> None:
        # All changes of every finished job would fill the memory within a busy hour.
        if len(self._finished) > _FINISHED_KEPT_WHOLE:
            told = self._told[self._finished.popitem(last=False)[0]]
            del told[:-1]
