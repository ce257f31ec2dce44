"""Ranks take their devices, join, make the groups of a layout, exchange, and leave.

With `--slow`, setting up a communicator takes seconds, and a thread of each rank must not fall
silent meanwhile: the broker would take the rank for dead.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from ranks.device import open_device
from ranks.environment import set_environment_defaults
from ranks.parallel.layout import Layout
from ranks.parallel.process_group import join
from tests.rehearsal.rank_processes import run_ranks

T = TypeVar("T")

SETUP_S = 3
LONGEST_SILENCE_S = 1.0
_EVERY_S = 0.02


def main() -> int:
    """Run a rank if the arguments name one, all of them otherwise."""
    kind, *rest = sys.argv[1:]
    if rest and rest[0] != "--slow":
        return _be_rank(kind, int(rest[0]), int(rest[1]), Path(rest[2]))
    environment = {"REHEARSAL_COMMUNICATOR_S": str(SETUP_S)} if rest else {}
    sizes = (2,) if rest else (2, 4)
    return sum(run_ranks("tests.rehearsal.parts.join", kind, n, **environment) for n in sizes)


def _be_rank(kind: str, rank: int, world_size: int, folder: Path) -> int:
    set_environment_defaults(folder)
    device = open_device(kind, rank, world_size)
    pulse = Pulse(rank)
    world = pulse.during("join", lambda: join(str(folder / "rdv"), rank, world_size, device))
    layout = Layout(world_size=world_size, cfg_size=2, ulysses_size=world_size // 2)
    if world_size == 2:
        layout = Layout(world_size=2, cfg_size=1, ulysses_size=2)
    groups = pulse.during("groups", lambda: world.groups(layout))
    numbers = torch.ones(4, device=device.name)

    def exchange() -> None:
        dist.all_reduce(numbers, group=groups.ulysses)
        device.synchronize()

    pulse.during("first exchange", exchange)
    pulse.during("leave", dist.destroy_process_group)
    sys.stdout.flush()
    os._exit(int(pulse.longest_s > LONGEST_SILENCE_S))


class Pulse:
    """A thread that wants to run all the time, and how long it could not.

    Args:
        rank: This rank.
    """

    def __init__(self, rank: int) -> None:
        self.longest_s = 0.0
        self._rank = rank
        self._silence_s = 0.0
        threading.Thread(target=self._beat, daemon=True).start()

    def during(self, name: str, work: Callable[[], T]) -> T:
        """Do something, and say how long it took and how long the thread stood still."""
        self._silence_s = 0.0
        begun = time.monotonic()
        result = work()
        taken_s = time.monotonic() - begun
        time.sleep(2 * _EVERY_S)  # the thread must run once more to note its silence
        self.longest_s = max(self.longest_s, self._silence_s)
        sys.stdout.write(
            f"  rank {self._rank}: {name} took {taken_s:.1f} s, silence {self._silence_s:.1f} s\n"
        )
        return result

    def _beat(self) -> None:
        latest = time.monotonic()
        while True:
            time.sleep(_EVERY_S)
            now = time.monotonic()
            self._silence_s = max(self._silence_s, now - latest - _EVERY_S)
            latest = now


if __name__ == "__main__":
    sys.exit(main())
