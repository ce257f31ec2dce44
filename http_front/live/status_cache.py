"""How running jobs are by the latest news of them: a status that is asked often costs one hop."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from broker.wire.job import JobState
from broker.wire.protocol import JobView

FRESH_S = 2.0
"""So long a word about a job holds: events may be lost, and then the broker has to be asked."""


class _News(NamedTuple):
    heard_s: float
    seq: float
    view: JobView | None


class StatusCache:
    """What was heard of each job a moment ago, from the broker's events or in its answers.

    Only a running job is told from here: it changes with every step, and each step is published.
    Of the others it is remembered that they run no more, since an event may arrive after the
    answer that was given later.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._news: OrderedDict[str, _News] = OrderedDict()

    def __len__(self) -> int:
        return len(self._news)

    def hear(self, view: JobView) -> None:
        """Take an event, or what the broker has answered."""
        self._keep(view.job_id, view.seq, view)

    def forget(self, job_id: str) -> None:
        """Tell nothing more of a job: it has been removed."""
        self._keep(job_id, float("inf"), None)

    def find(self, job_id: str, owner: str | None) -> JobView | None:
        """Return how a running job of an owner is; None if the broker has to be asked."""
        known = self._news.get(job_id)
        if known is None or known.view is None:
            return None
        view, age_s = known.view, self._clock() - known.heard_s
        if age_s > FRESH_S or view.state is not JobState.IN_PROGRESS:
            return None
        if owner not in (None, view.owner):
            return None
        eta_s = None if view.eta_s is None else max(0.0, view.eta_s - age_s)
        return msgspec.structs.replace(view, eta_s=eta_s)

    def _keep(self, job_id: str, seq: float, view: JobView | None) -> None:
        now_s = self._clock()
        known = self._news.get(job_id)
        if known is None or known.seq <= seq:
            self._news[job_id] = _News(now_s, seq, view)
            self._news.move_to_end(job_id)
        while self._news and now_s - next(iter(self._news.values())).heard_s > FRESH_S:
            self._news.popitem(last=False)
