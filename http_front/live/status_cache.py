"""Caches the status of running jobs, so that frequent polling does not reach the broker."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from broker.wire.job import JobState
from broker.wire.job_view import JobView

FRESH_S = 2.0
"""Lifetime of an entry. Events may be lost, so an older entry may be wrong."""


class _Entry(NamedTuple):
    received_s: float
    seq: float
    view: JobView | None


class StatusCache:
    """Holds the latest state of each job, from the broker's events and replies.

    Only running jobs are answered from the cache: each of their steps is published, so an entry is
    soon replaced. Entries of other jobs exist because an event may arrive after a newer reply; the
    event must not make an ended job look running.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def update(self, view: JobView) -> None:
        """Store a job from an event or a reply, unless a newer state is known."""
        self._store(view.job_id, view.seq, view)

    def forget(self, job_id: str) -> None:
        """Drop a deleted job, and ignore late events of it."""
        self._store(job_id, float("inf"), None)

    def find(self, job_id: str, owner: str | None) -> JobView | None:
        """Return a running job of the owner; None if the broker must be asked."""
        entry = self._entries.get(job_id)
        if entry is None or entry.view is None:
            return None
        view, age_s = entry.view, self._clock() - entry.received_s
        if age_s > FRESH_S or view.state is not JobState.IN_PROGRESS:
            return None
        if owner not in (None, view.owner):
            return None
        eta_s = None if view.eta_s is None else max(0.0, view.eta_s - age_s)
        return msgspec.structs.replace(view, eta_s=eta_s)

    def _store(self, job_id: str, seq: float, view: JobView | None) -> None:
        now_s = self._clock()
        entry = self._entries.get(job_id)
        if view is not None and view.spec is None and entry is not None and entry.view is not None:
            view = msgspec.structs.replace(view, spec=entry.view.spec)  # events have none
        if entry is None or entry.seq <= seq:
            self._entries[job_id] = _Entry(now_s, seq, view)
            self._entries.move_to_end(job_id)
        while self._entries and now_s - next(iter(self._entries.values())).received_s > FRESH_S:
            self._entries.popitem(last=False)
