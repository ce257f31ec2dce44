"""Every layout of 2 and 4 ranks, with sharded weights, split VAE and attention cache on and off."""

import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch

from broker.wire.job import JobSpec
from tests.rehearsal.engine_rank import make_video, open_engine, say
from tests.rehearsal.rank_processes import make_demo_model, run_ranks

WORLD_SIZES = (2, 4)
UNEVEN_SIZE = "80*112"
"""Its tokens cannot be shared evenly by 2 or 4 ranks."""
COVERING = ((False, False, False), (True, True, False), (True, False, True), (False, True, True))
"""Sharded, split, cached: every pair of them in all four positions."""


def main() -> int:
    """Run a rank if the arguments name one, all of them otherwise."""
    kind, *rest = sys.argv[1:]
    if rest:
        rank, world_size = (int(number) for number in rest[:2])
        return _be_rank(kind, rank, world_size, *(Path(path) for path in rest[2:]))
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        model = make_demo_model(Path(name))
        module = "tests.rehearsal.parts.layouts"
        return sum(run_ranks(module, kind, size, str(model)) for size in WORLD_SIZES)


def jobs(world_size: int) -> Iterator[JobSpec]:
    """Yield a job for each layout and each covering setting of the switches."""
    for cfg_size, ulysses_size in product((1, 2), (1, 2, 4)):
        if world_size % (cfg_size * ulysses_size):
            continue
        for is_sharded, is_split, is_cached in COVERING:
            yield JobSpec(
                prompt="A small dog and a cat walk slowly at sunset.",
                negative_prompt="blurred, static",
                image_size=UNEVEN_SIZE,
                num_frames=24,
                infer_steps=20,
                seed=11,
                cfg_size=cfg_size,
                ulysses_size=ulysses_size,
                dit_fsdp=is_sharded,
                t5_fsdp=is_sharded,
                vae_parallel=is_split,
                use_attentioncache=is_cached,
                start_step=4,
                attentioncache_interval=3,
                end_step=16,
            )


def _be_rank(kind: str, rank: int, world_size: int, folder: Path, model: Path) -> int:
    engine = open_engine(kind, rank, world_size, folder, model)
    num_jobs = 0
    with torch.inference_mode(), engine.device.attention_order():
        for spec in jobs(world_size):
            make_video(engine, spec)
            num_jobs += 1
    if rank == 0:
        say(f"  {world_size} ranks: {num_jobs} jobs, one for each layout and setting")
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
