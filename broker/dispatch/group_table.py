"""Every group the broker knows, indexed so that no question walks over all of them."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from itertools import chain, islice

from broker.dispatch.groups import Group
from broker.dispatch.preemptible_attempts import PreemptibleAttempts
from broker.wire.group_shape import GroupShape


class GroupTable:
    """The groups by name; reading changes nothing.

    Code that changes a group or its attempts calls `reindex` afterwards.
    """

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._free: dict[GroupShape, OrderedDict[str, None]] = defaultdict(OrderedDict)
        self._free_shapes: dict[str, GroupShape] = {}
        """The shape under which each free group is indexed."""
        self._ready: dict[str, OrderedDict[str, Group]] = defaultdict(OrderedDict)
        """Ready groups by their model."""
        self._ready_models: dict[str, str] = {}
        """The model under which each ready group is indexed."""
        self.num_model_moves = 0
        """Rises whenever a model gets its first ready group, or loses its last one."""
        self._busy: set[str] = set()
        self._unknown: set[str] = set()
        self.preemptible = PreemptibleAttempts()
        """The groups whose attempt may make way for a more urgent job."""

    def get(self, name: str) -> Group | None:
        return self._groups.get(name)

    def __getitem__(self, name: str) -> Group:
        return self._groups[name]

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def put(self, group: Group) -> None:
        self._groups[group.name] = group
        self.reindex(group.name)

    def remove(self, name: str) -> None:
        del self._groups[name]
        self.reindex(name)

    def reindex(self, name: str) -> None:
        group = self._groups.get(name)
        self._index_free(name, group)
        self.preemptible.index(name, group)
        _keep(self._busy, name, group is not None and bool(group.attempts))
        is_unknown = group is not None and group.shape is None and not group.set_aside
        _keep(self._unknown, name, is_unknown)
        self._index_ready(name, group)

    @property
    def runs_nothing(self) -> bool:
        return not self._busy

    @property
    def has_unknown(self) -> bool:
        """Whether some group has not reported what it can run."""
        return bool(self._unknown)

    def num_ready(self, model: str) -> int:
        return len(self._ready.get(model, ()))

    def some_ready(self, most: int, model: str | None = None) -> list[Group]:
        """Return up to `most` ready groups of a model or of any, those ready for longest first."""
        known = self._ready if model is None else {model: self._ready.get(model, OrderedDict())}
        groups = chain.from_iterable(ready.values() for ready in known.values())
        return list(islice(groups, most))

    def free(self) -> list[tuple[GroupShape, Group]]:
        """Return the group that has been free for longest, for each shape."""
        return [(shape, self._groups[next(iter(names))]) for shape, names in self._free.items()]

    def _index_ready(self, name: str, group: Group | None) -> None:
        before = self._ready_models.pop(name, None)
        shape = None if group is None or not group.ready else group.shape
        model = None if shape is None else shape.model.name
        if before is not None and before != model:
            del self._ready[before][name]
            self.num_model_moves += not self._ready[before]
        if group is not None and model is not None:
            self.num_model_moves += not self._ready[model]
            self._ready[model][name] = group
            self._ready_models[name] = model

    def _index_free(self, name: str, group: Group | None) -> None:
        before = self._free_shapes.pop(name, None)
        shape = group.shape if group is not None and group.is_free else None
        if before is not None and before != shape:
            del self._free[before][name]
            if not self._free[before]:
                del self._free[before]
        if shape is not None:
            self._free[shape][name] = None
            self._free_shapes[name] = shape


def _keep(names: set[str], name: str, belongs: bool) -> None:
    if belongs:
        names.add(name)
    else:
        names.discard(name)
