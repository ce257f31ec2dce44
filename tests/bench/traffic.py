"""Traffic between ranks: the collectives that a rank calls, and the bytes it sends."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch.distributed as dist
from torch import ScriptObject, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Collectives that one rank calls, and bytes that it sends to other ranks."""

    num_collectives: int
    num_bytes: int

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            num_collectives=self.num_collectives - other.num_collectives,
            num_bytes=self.num_bytes - other.num_bytes,
        )

    def __floordiv__(self, divisor: int) -> "Traffic":
        return Traffic(
            num_collectives=self.num_collectives // divisor, num_bytes=self.num_bytes // divisor
        )


class Counter(TorchDispatchMode):
    """Counts the collectives called while it is active, and the bytes they send."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_collectives = 0
        self.num_bytes = 0

    @property
    def traffic(self) -> Traffic:
        return Traffic(num_collectives=self.num_collectives, num_bytes=self.num_bytes)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        namespace, _, name = func.name().partition("::")  # type: ignore[attr-defined]
        if namespace in ("c10d", "_c10d_functional") and not name.startswith(("wait", "_wrap")):
            self._count(name, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        # `c10d` takes outputs before inputs, its functional form the input alone.
        leaves = [[t for t in tree_leaves(arg) if isinstance(t, Tensor)] for arg in args]
        sent = [tensors for tensors in leaves if tensors][-1]
        num_bytes = sum(tensor.nbytes for tensor in sent)
        num_ranks = _group_size(args)
        self.num_collectives += 1
        if "gather" in name:
            self.num_bytes += num_bytes * (num_ranks - 1)
        elif "alltoall" in name or "all_to_all" in name:
            self.num_bytes += num_bytes * (num_ranks - 1) // num_ranks
        elif "allreduce" in name:
            self.num_bytes += 2 * num_bytes * (num_ranks - 1) // num_ranks
        else:
            raise ValueError(f"what does {name} send?")


def _group_size(args: tuple[Any, ...]) -> int:
    """Return the ranks of a collective's group, which is given as an object or by name."""
    for arg in args:
        if isinstance(arg, ScriptObject) and "ProcessGroup" in str(arg._type()):
            return dist.ProcessGroup.unbox(arg).size()
    names: dict[object, int] = {g.group_name: g.size() for g in dist.distributed_c10d._world.pg_map}
    return next(names[arg] for arg in args if isinstance(arg, str) and arg in names)
