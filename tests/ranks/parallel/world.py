"""Runs a function on several real ranks joined over gloo, and shows what any of them raised."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

# Imported once, by the server from which all ranks are forked.
PRELOADED = [
    "torch.distributed.fsdp",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "diffusers.models.transformers.transformer_wan",
    "transformers.models.umt5.modeling_umt5",
]


def run_ranks(
    world_size: int, target: Callable[..., None], *args: object, limit_s: float = 120.0
) -> None:
    """Call `target(rank, world_size, *args)` on ranks that have joined a process group.

    Raises:
        AssertionError: If a rank fails or does not end in time; it shows the stderr of all ranks.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_run, args=(rank, world_size, folder, target, args))
            for rank in range(world_size)
        ]
        try:
            for process in ranks:
                process.start()
            exit_codes = _wait_for_all_or_a_failure(ranks, limit_s)
        finally:
            for process in ranks:
                process.kill()
                process.join()
        shown = "\n".join(
            f"--- {path.name}\n{path.read_text()}" for path in sorted(Path(folder).glob("rank-*"))
        )
    assert exit_codes == [0] * world_size, f"{exit_codes} after at most {limit_s} s\n{shown}"


def _wait_for_all_or_a_failure(ranks: Sequence[BaseProcess], limit_s: float) -> list[int | None]:
    """Return the exit codes; None means that the rank is still running."""
    deadline_s = time.monotonic() + limit_s
    while running := [process.sentinel for process in ranks if process.exitcode is None]:
        ended = wait(running, max(0.0, deadline_s - time.monotonic()))
        # The other ranks might wait forever for one that failed.
        if not ended or any(process.exitcode for process in ranks):
            break
    return [process.exitcode for process in ranks]


def _run(
    rank: int, world_size: int, folder: str, target: Callable[..., None], args: tuple[object, ...]
) -> None:
    with (Path(folder) / f"rank-{rank}").open("w") as stderr:
        os.dup2(stderr.fileno(), 2)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    target(rank, world_size, *args)
    dist.barrier()
    dist.destroy_process_group()
