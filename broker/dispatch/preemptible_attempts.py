"""The attempts that may make way for a more urgent job, the last in the queue's order first."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from broker.dispatch.groups import Group
from broker.dispatch.sorted_queue import Entry, SortedQueue, SortKey
from broker.wire.group_shape import GroupShape


class _Position(NamedTuple):
    """Where a group is indexed whose one attempt may make way."""

    shape: GroupShape
    priority: int
    sort_key: SortKey


class PreemptibleAttempts:
    """Groups that one attempt occupies: those where it may make way, and those where it does."""

    def __init__(self) -> None:
        self._queues: dict[GroupShape, dict[int, SortedQueue]] = defaultdict(dict)
        """Group names by shape and priority, in the order of their jobs."""
        self._positions: dict[str, _Position] = {}
        self._num_of: Counter[int] = Counter()
        self._yielding: dict[GroupShape, set[str]] = defaultdict(set)
        self._yielding_shapes: dict[str, GroupShape] = {}

    @property
    def lowest_priority(self) -> int | None:
        return min((priority for priority, num in self._num_of.items() if num), default=None)

    def last(self, shape: GroupShape, below: int) -> Entry | None:
        """Return the group whose job sorts last, among those below a priority."""
        queues = self._queues.get(shape, {})
        ends = [queue.last() for priority, queue in queues.items() if priority < below]
        return max((end for end in ends if end is not None), default=None)

    def yielding(self) -> Iterable[tuple[GroupShape, int]]:
        """Return how many groups of each shape are about to be free."""
        return [(shape, len(names)) for shape, names in self._yielding.items() if names]

    def index(self, name: str, group: Group | None) -> None:
        position = yielding_shape = None
        attempt = None if group is None else group.sole_attempt
        if group is not None and attempt is not None and group.shape is not None:
            if attempt.can_leave:
                position = _Position(group.shape, attempt.priority, attempt.sort_key)
            elif attempt.has_to_leave:
                yielding_shape = group.shape
        self._index_position(name, position)
        self._index_yielding(name, yielding_shape)

    def _index_position(self, name: str, position: _Position | None) -> None:
        before = self._positions.get(name)
        if position == before:
            return
        if before is not None:
            del self._positions[name]
            self._num_of[before.priority] -= 1
            self._queues[before.shape][before.priority].remove((before.sort_key, name))
        if position is not None:
            self._positions[name] = position
            self._num_of[position.priority] += 1
            queues = self._queues[position.shape]
            queues.setdefault(position.priority, SortedQueue()).add((position.sort_key, name))

    def _index_yielding(self, name: str, shape: GroupShape | None) -> None:
        before = self._yielding_shapes.pop(name, None)
        if before is not None:
            self._yielding[before].discard(name)
        if shape is not None:
            self._yielding_shapes[name] = shape
            self._yielding[shape].add(name)
