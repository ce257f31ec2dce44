"""The start of eight ranks, in two ways: `python -m tests.bench.start`.

The server forks them from one process that has imported everything. The alternative is to start
eight interpreters that each import everything. Both then run the server's own code until all ranks
have joined and loaded the demo model. The ways alternate; medians of five.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker.process.child import begin
from broker.wire.sockets import Addresses
from launcher.group_life import GroupLife
from launcher.spawn import Reaper
from ranks.config import RankConfig

NUM_RUNS = 5
WORLD_SIZE = 8
LIMIT_S = 300.0


def main() -> None:
    if len(sys.argv) > 1:
        return be_a_rank(int(sys.argv[1]), sys.argv[2])
    ways: dict[str, Callable[[RankConfig], float]] = {"forked": forked_s, "started": started_s}
    times: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        subprocess.run([sys.executable, "-m", "ranks.demo.build", str(model)], check=True)
        for run in range(NUM_RUNS):
            for name, measure in ways.items():
                times[name].append(measure(config(Path(folder), model, f"{name}-{run}")))
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:8} {median:6.1f} s   ({min(values):.1f} to {max(values):.1f})")
    print(json.dumps({"start_s": times}))
    return None


def config(folder: Path, model: Path, name: str) -> RankConfig:
    """Return the config of a group that no broker knows."""
    return RankConfig(
        group="g0",
        epoch=1,
        world_size=WORLD_SIZE,
        model_path=str(model),
        device="cpu",
        addresses=Addresses.in_folder(folder),
        store=str(folder),
        rendezvous=str(folder / name),
        parent_pid=os.getpid(),
    )


def forked_s(config: RankConfig) -> float:
    """Return the start time of a group whose ranks are forked, as the server does."""

    async def measure() -> float:
        reaper = Reaper()
        reaper.start()
        group = GroupLife(reaper, config, "ranks")
        begun = time.monotonic()
        running = asyncio.create_task(group.run(LIMIT_S))
        await group.ready.wait()
        taken = time.monotonic() - begun
        group.end("measured")
        await running
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        return taken

    return asyncio.run(measure())


def started_s(config: RankConfig) -> float:
    """Return the start time of a group whose ranks are new interpreters."""
    read_end, write_end = os.pipe()
    argument = msgspec.json.encode(msgspec.structs.replace(config, ready_fd=write_end)).decode()
    begun = time.monotonic()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.start", str(rank), argument], pass_fds=[write_end]
        )
        for rank in range(config.world_size)
    ]
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        num_ready = 0
        while num_ready < config.world_size:
            num_ready += lines.readline().startswith("ready")
    taken = time.monotonic() - begun
    for process in ranks:
        process.kill()
        process.wait()
    return taken


def be_a_rank(rank: int, argument: str) -> None:
    """Run one of the ranks of `started_s`."""
    config = msgspec.json.decode(argument, type=RankConfig)
    begin(f"rank-{rank}", config.parent_pid, config.log_format)
    from ranks.serve import serve

    serve(config, rank)


if __name__ == "__main__":
    main()
