"""Joins and leaves `torch.distributed`, and creates the process groups of a layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, Store
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ranks.device import Device
from ranks.parallel.layout import Layout

TIMEOUT = timedelta(seconds=180)
"""Limit of a collective."""

START_LIMIT = timedelta(seconds=1800)
"""Limit of importing and of loading: from a cold disk, some ranks take minutes longer."""


@dataclass(frozen=True)
class LayoutGroups:
    """This rank's process groups in a layout; None for a group of this rank alone."""

    ulysses: dist.ProcessGroup | None
    cfg: dist.ProcessGroup | None


class World:
    """All ranks of the group, as seen from one of them.

    Args:
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.control_group = _new_group(range(world_size), backend="gloo")
        self._groups: dict[Layout, LayoutGroups] = {}

    def mesh(self, device: Device) -> DeviceMesh | None:
        return init_device_mesh(device.kind, (self.world_size,)) if self.world_size > 1 else None

    def smallest(self, number: int) -> int:
        agreed = torch.tensor([number])
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN, group=self.control_group)
        return int(agreed.item())

    def from_rank_0(self, number: int) -> int:
        agreed = torch.tensor([number])
        dist.broadcast(agreed, src=0, group=self.control_group)
        return int(agreed.item())

    def await_all(self, limit: timedelta) -> None:
        # `limit` may be longer than the limit of other collectives.
        dist.monitored_barrier(self.control_group, timeout=limit)

    def groups(self, layout: Layout) -> LayoutGroups:
        """Return this rank's process groups in a layout.

        All ranks create them in the same order when a layout is first used. They are kept, because
        every communicator takes accelerator memory.
        """
        if layout not in self._groups:
            self._groups[layout] = LayoutGroups(
                ulysses=self._own_group(layout.ulysses_groups),
                cfg=self._own_group(layout.cfg_groups),
            )
        return self._groups[layout]

    def _own_group(self, partition: list[list[int]]) -> dist.ProcessGroup | None:
        if len(partition[0]) == 1:
            return None
        # torch requires every rank to create every group, even those it is not in.
        groups = [_new_group(ranks) for ranks in partition]
        return next(
            group for ranks, group in zip(partition, groups, strict=True) if self.rank in ranks
        )


def join(rendezvous: str, rank: int, world_size: int, device: Device) -> World:
    """Join the process group of all ranks.

    `rendezvous` is the path of a file that did not exist before the group started.
    """
    store = FileStore(rendezvous, world_size)
    _await_arrivals(store, rank, world_size)
    dist.init_process_group(
        device.backend,
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
        device_id=device.bound_device,
    )
    return World(rank, world_size)


def _await_arrivals(store: Store, rank: int, world_size: int) -> None:
    # Every rank must have imported its libraries first: connecting has much shorter limits.
    store.set(f"arrived/{rank}", "")
    store.wait([f"arrived/{other}" for other in range(world_size)], START_LIMIT)


def leave() -> None:
    """Leave the process group; every rank must do so at the same time."""
    dist.destroy_process_group()


def _new_group(ranks: Sequence[int], backend: str | None = None) -> dist.ProcessGroup:
    group: dist.ProcessGroup = dist.new_group(list(ranks), timeout=TIMEOUT, backend=backend)
    return group
