"""Ranks as processes, for parts that need no server around them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from broker.sockets import Addresses
from ranks.config import DeviceKind, RankConfig

LIMIT_S = 900.0


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
            return sum(rank.wait(LIMIT_S) != 0 for rank in ranks)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()


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
    subprocess.run([sys.executable, "-m", "ranks.demo_model", str(model)], check=True)
    return model
