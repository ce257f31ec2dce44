"""Ranks as processes, for parts that need no server around them."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from broker.wire.sockets import Addresses
from ranks.config import DeviceKind, RankConfig

LIMIT_S = 1800.0
_LAST_WORDS_S = 10.0
"""How long the other ranks may go on once one has failed: they may be waiting for it for ever."""


def run_ranks(module: str, kind: str, world_size: int, *arguments: str, **environment: str) -> int:
    """Run `python -m MODULE KIND RANK WORLD_SIZE FOLDER ...` for each rank; return how many failed.

    Args:
        module: Its `main` is a rank.
        kind: Of device.
        world_size: Number of ranks.
        arguments: More of them for each rank.
        environment: What is added to the ranks' environment.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        command = [sys.executable, "-m", module, kind]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(world_size), folder, *arguments],
                env=os.environ | environment,
            )
            for rank in range(world_size)
        ]
        try:
            _await_end(ranks)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        return sum(rank.returncode != 0 for rank in ranks)


def _await_end(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Return when all have ended, or when it is no use to wait any longer."""
    deadline = time.monotonic() + LIMIT_S
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        if any(rank.returncode for rank in ranks):
            deadline = min(deadline, time.monotonic() + _LAST_WORDS_S)
        time.sleep(0.1)


def rank_config(kind: DeviceKind, world_size: int, folder: Path, model: Path) -> RankConfig:
    """Return the config of ranks whose files are in a folder."""
    return RankConfig(
        group="group-0",
        epoch=1,
        world_size=world_size,
        model_path=str(model),
        device=kind,
        addresses=Addresses.in_folder(folder),
        store=str(folder),
        rendezvous=str(folder / "rendezvous"),
        parent_pid=os.getpid(),
    )


def make_demo_model(folder: Path) -> Path:
    """Make the demo model in a process of its own; return its folder."""
    model = folder / "demo-model"
    subprocess.run([sys.executable, "-m", "ranks.demo.build", str(model)], check=True)
    return model
