"""One rank of the engine benchmark, which runs all ways in alternating rounds."""

import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

from ranks.device import open_device
from ranks.model.weights import load_transformer
from ranks.model_files.diffusers_folder import read_component
from ranks.parallel.layout import Layout
from ranks.parallel.process_group import World
from ranks.parallel.sharding import set_sharded
from tests.bench.engine_steps import Job, Ours, Stepper, Stock, agree
from tests.bench.traffic import Counter, Traffic
from tests.ranks.model.peak_memory import PeakMemory

NUM_ROUNDS = 5


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure."""

    job: Job
    layouts: list[tuple[int, int]]
    """Our layouts: `(cfg_size, ulysses_size)`."""
    num_steps: int
    """Steps per round."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of a step in one way."""

    wall_s: list[float]
    """Wall time on rank 0, by round."""
    processor_s: list[float]
    """Processor time of all ranks together, by round; hardly affected by other processes."""
    traffic: Traffic
    """Traffic of rank 0."""
    peak_bytes: int
    """Peak memory of rank 0, without weights."""


@torch.inference_mode()
def measure(rank: int, world_size: int, work: Work, path: Path) -> None:
    """Write the results of each of our layouts, then of diffusers."""
    world = World(rank, world_size)
    device = open_device("cpu", rank, world_size)
    torch.set_num_threads(1)  # several would spend a busy machine's time on waiting for each other
    component = read_component(Path(work.job.transformer))
    transformer = load_transformer(component, device, world.mesh(device))
    set_sharded(transformer, sharded=False)
    steppers: list[Stepper] = [
        Ours(
            work.job,
            transformer,
            world,
            Layout(world_size=world_size, cfg_size=cfg_size, ulysses_size=ulysses_size),
        )
        for cfg_size, ulysses_size in work.layouts
    ]
    steppers.append(Stock(work.job))
    rounds = [[_round(way, work.num_steps) for way in steppers] for _ in range(NUM_ROUNDS + 1)]
    agree(steppers)
    ways = [
        _way(stepper, [one_round[index] for one_round in rounds[1:]])  # the first one warms up
        for index, stepper in enumerate(steppers)
    ]
    if rank == 0:
        path.write_bytes(msgspec.json.encode(ways))


def _round(stepper: Stepper, num_steps: int) -> tuple[float, float]:
    dist.barrier()
    begun = time.perf_counter(), time.process_time()
    for _ in range(num_steps):
        stepper.step()
    taken = time.perf_counter() - begun[0], time.process_time() - begun[1]
    processor_s = torch.tensor(taken[1])
    dist.all_reduce(processor_s)
    return taken[0] / num_steps, float(processor_s) / num_steps


def _way(stepper: Stepper, rounds: list[tuple[float, float]]) -> Way:
    memory, counter = PeakMemory(), Counter()
    with ExitStack() as watched:
        watched.enter_context(memory)
        watched.enter_context(counter)
        stepper.step()
    return Way(
        wall_s=[wall_s for wall_s, _ in rounds],
        processor_s=[processor_s for _, processor_s in rounds],
        traffic=counter.traffic,
        peak_bytes=int(memory.peak_bytes),
    )
