"""The start of a group whose ranks are not equally fast."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from broker.wire.sockets import Addresses
from ranks import serve
from ranks.config import RankConfig
from ranks.device import open_device
from ranks.model import conditioning
from ranks.parallel import process_group
from tests.ranks.parallel.world import run_ranks

COLLECTIVE_LIMIT_S = 3.0
DELAY_S = 6.0


@pytest.mark.parametrize("slow_at", ["import", "load"])
def test_the_others_wait_for_a_rank_that_is_slower_than_a_collective_may_be(
    slow_at: str, demo_folder: Path, tmp_path: Path
) -> None:
    """On a cold disk ranks load minutes apart; collectives fail after three minutes."""
    run_ranks(2, start, slow_at, demo_folder, tmp_path)


def start(rank: int, world_size: int, slow_at: str, model: Path, folder: Path) -> None:
    dist.barrier()  # or the other rank may still be connecting to this one
    dist.destroy_process_group()  # the rank joins by itself
    process_group.TIMEOUT = timedelta(seconds=COLLECTIVE_LIMIT_S)
    load_models = conditioning.load_models

    def load(*arguments: Any) -> Any:
        if (rank, slow_at) == (1, "load"):
            time.sleep(DELAY_S)
        return load_models(*arguments)

    if (rank, slow_at) == (1, "import"):
        time.sleep(DELAY_S)
    config = RankConfig(
        group="g0",
        epoch=1,
        world_size=world_size,
        model_path=str(model),
        device="cpu",
        addresses=Addresses.in_folder(folder),
        store=str(folder),
        rendezvous=str(folder / "rendezvous"),
        parent_pid=0,
    )
    with patch.object(serve, "load_models", load):
        engine = serve.start_engine(config, rank, open_device("cpu", rank, world_size))
    assert engine.world.world_size == world_size
