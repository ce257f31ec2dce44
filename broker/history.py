"""The published changes of each job, for requests and for subscribers that missed some."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import dropwhile, islice

from broker.job_search import MAX_SEARCHED
from broker.wire.job import JobState
from broker.wire.job_view import JobView
from broker.wire.replies import JobsListed
from broker.wire.requests import ListJobs

_CHANGES_KEPT = 256
_FINISHED_KEPT_WHOLE = 200


class History:
    """The published views of every job; none is here before it is on disk."""

    def __init__(self, views: Iterable[JobView]) -> None:
        # Lists of one: most jobs wait and have one view. A deque takes more memory, and so does a
        # list that was appended to.
        self._views: dict[str, list[JobView]] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        for view in views:
            self.add(view)

    def add(self, view: JobView) -> None:
        views = self._views.get(view.job_id)
        if views is None:
            self._views[view.job_id] = views = [view]
        else:
            views.append(view)
        if len(views) > _CHANGES_KEPT:
            del views[0]
        if view.state.is_terminal:
            self._finished[view.job_id] = None
            self._shorten_oldest()

    def drop(self, job_id: str) -> None:
        self._views.pop(job_id, None)
        self._finished.pop(job_id, None)

    def latest(self, job_id: str, owner: str | None = None) -> JobView | None:
        """Return the latest view; None if the job is unknown, or another owner's."""
        views = self._views.get(job_id)
        return views[-1] if views and owner in (None, views[-1].owner) else None

    def after(self, job_id: str, seq: int, owner: str | None = None) -> list[JobView]:
        """Return the changes after `seq` that are still known, at least the latest view."""
        views = self._views.get(job_id)
        if not views or owner not in (None, views[-1].owner):
            return []
        return [view for view in views if view.seq > seq] or [views[-1]]

    def page(
        self, request: ListJobs, limit: int, is_wanted: Callable[[JobView], bool]
    ) -> JobsListed:
        """Return a page; `is_wanted` decides what views do not tell."""
        kept = self._views.values()
        latest = (views[-1] for views in (kept if request.oldest_first else reversed(kept)))
        own: Iterator[JobView] = (view for view in latest if request.owner in (None, view.owner))
        if request.after is not None:
            own = islice(dropwhile(lambda view: view.job_id != request.after, own), 1, None)
        # Selected last: the job that the page follows may have another state by now.
        states = request.states or tuple(JobState)
        found: Iterator[JobView] = (view for view in own if view.state in states)
        if request.words or request.kept:
            found = filter(is_wanted, islice(found, MAX_SEARCHED))
        jobs = list(islice(found, limit + 1))
        return JobsListed(jobs=jobs[:limit], has_more=len(jobs) > limit)

    def _shorten_oldest(self) -> None:
        # All changes of every ended job would fill the memory within a busy hour.
        if len(self._finished) > _FINISHED_KEPT_WHOLE:
            views = self._views[self._finished.popitem(last=False)[0]]
            del views[:-1]
