"""Every group that was heard of, sorted so that no question walks over all of them."""

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, MutableMapping
from itertools import islice

from broker.dispatch.groups import Group
from broker.dispatch.preemptible_runs import PreemptibleAttempts
from broker.wire.job import GroupShape


class GroupTable(MutableMapping[str, Group]):
    """The groups by name; those that are free, by their shape.

    Whoever takes a group out may change it and its runs, hence each that was taken is looked at
    again before the next question: nothing that makes a group free or busy has to say so.
    """

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._taken: set[str] = set()
        self._free: dict[GroupShape, OrderedDict[str, None]] = defaultdict(OrderedDict)
        self._shape_of: dict[str, GroupShape] = {}
        """The shapes under which groups count as free."""
        self._ready: OrderedDict[str, Group] = OrderedDict()
        self._busy: set[str] = set()
        self._unknown: set[str] = set()
        self._leavers = PreemptibleAttempts()

    def __getitem__(self, name: str) -> Group:
        group = self._groups[name]
        self._taken.add(name)
        return group

    def __setitem__(self, name: str, group: Group) -> None:
        self._groups[name] = group
        self._taken.add(name)

    def __delitem__(self, name: str) -> None:
        del self._groups[name]
        self._taken.add(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def look(self) -> Collection[Group]:
        """Return every group, for somebody who changes none."""
        return self._groups.values()

    def look_at(self, name: str) -> Group | None:
        """Return a group, for somebody who does not make it free or busy."""
        return self._groups.get(name)

    @property
    def runs_nothing(self) -> bool:
        """Whether no group holds a run."""
        self._review()
        return not self._busy

    @property
    def has_unknown(self) -> bool:
        """Whether there is a group that has not told what it can run."""
        self._review()
        return bool(self._unknown)

    @property
    def leavers(self) -> PreemptibleAttempts:
        """The groups whose run may leave for a more urgent job."""
        self._review()
        return self._leavers

    @property
    def num_ready(self) -> int:
        """How many groups serve jobs, be they busy or not."""
        self._review()
        return len(self._ready)

    def some_ready(self, most: int) -> list[Group]:
        """Return groups that serve jobs: all, or those that have done so for longest."""
        self._review()
        return list(islice(self._ready.values(), most))

    def free(self) -> list[tuple[GroupShape, Group]]:
        """Return, for each shape of which a group is free, the one that is so for longest."""
        self._review()
        return [(shape, self[next(iter(alike))]) for shape, alike in self._free.items()]

    def _review(self) -> None:
        while self._taken:
            name = self._taken.pop()
            group = self._groups.get(name)
            self._sort_free(name, group)
            self._leavers.sort(name, group)
            _keep(self._busy, name, group is not None and bool(group.runs))
            _keep(self._unknown, name, group is not None and group.shape is None)
            if group is None or not group.ready:
                self._ready.pop(name, None)
            else:
                self._ready[name] = group

    def _sort_free(self, name: str, group: Group | None) -> None:
        before = self._shape_of.pop(name, None)
        shape = group.shape if group is not None and group.is_free else None
        if before is not None and before != shape:
            del self._free[before][name]
            if not self._free[before]:
                del self._free[before]
        if group is not None and shape is not None:
            self._free[shape][name] = None
            self._shape_of[name] = shape


def _keep(names: set[str], name: str, belongs: bool) -> None:
    if belongs:
        names.add(name)
    else:
        names.discard(name)
