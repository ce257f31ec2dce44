"""The runs that a more urgent job may send away, in the order in which they would go."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from broker.dispatch.groups import Group
from broker.dispatch.sorted_queue import Entry, SortedQueue, SortKey
from broker.wire.job import GroupShape


class _Standing(NamedTuple):
    """Where a group stands whose one run may leave."""

    shape: GroupShape
    priority: int
    place: SortKey


class PreemptibleAttempts:
    """Groups whose ranks one run occupies: those where it may leave, those where it soon will."""

    def __init__(self) -> None:
        self._lines: dict[GroupShape, dict[int, SortedQueue]] = defaultdict(dict)
        self._standing: dict[str, _Standing] = {}
        self._num_of: Counter[int] = Counter()
        self._yielding: dict[GroupShape, set[str]] = defaultdict(set)
        self._yielding_of: dict[str, GroupShape] = {}

    @property
    def lowest_priority(self) -> int | None:
        """The priority of the least urgent run that may leave; None if there is none."""
        return min((priority for priority, num in self._num_of.items() if num), default=None)

    def last(self, shape: GroupShape, below: int) -> Entry | None:
        """Return the group whose run would be the last in the queue, of those below a priority."""
        lines = self._lines.get(shape, {})
        ends = [line.last() for priority, line in lines.items() if priority < below]
        return max((end for end in ends if end is not None), default=None)

    def yielding(self) -> Iterable[tuple[GroupShape, int]]:
        """Return how many groups of each shape will soon be free, since their run has to leave."""
        return [(shape, len(names)) for shape, names in self._yielding.items() if names]

    def sort(self, name: str, group: Group | None) -> None:
        """Take a group as it is now; None is one that is no more."""
        standing = shape = None
        run = None if group is None else group.sole_run
        if group is not None and run is not None and group.shape is not None:
            if run.can_leave:
                standing = _Standing(group.shape, run.priority, run.place)
            elif run.has_to_leave:
                shape = group.shape
        if standing != self._standing.get(name):
            self._forget(name)
            self._remember(name, standing)
        before = self._yielding_of.pop(name, None)
        if before is not None:
            self._yielding[before].discard(name)
        if shape is not None:
            self._yielding_of[name] = shape
            self._yielding[shape].add(name)

    def _forget(self, name: str) -> None:
        known = self._standing.pop(name, None)
        if known is not None:
            self._num_of[known.priority] -= 1
            self._lines[known.shape][known.priority].remove(known.place, name)

    def _remember(self, name: str, standing: _Standing | None) -> None:
        if standing is not None:
            self._standing[name] = standing
            self._num_of[standing.priority] += 1
            lines = self._lines[standing.shape]
            lines.setdefault(standing.priority, SortedQueue()).add(standing.place, name)
