"""`python -m tests.soak --minutes 120 --rate 150`: does anything grow in a long run?

Two servers: one with stub ranks and two fronts, of which one is restarted again and again while the
other lives on, and one with real ranks of the demo model. The exit code is 1 if something grows.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec

from tests.chaos.server import ChaosServer, chaos_server
from tests.free_port import free_port
from tests.running_server import SMALL_JOB, RunningServer
from tests.soak.load import Load
from tests.soak.samples import Samples
from tests.soak.table import print_verdict

JOB_TTL_S = 60.0
"""Short, so that as many jobs expire as arrive soon after the start."""
FRONT_EVERY_S = 600.0
RANK_EVERY_S = 300.0
NUM_SAMPLES = 240
LEAST_MINUTES = 10
STUB_JOB = {"prompt": "A small boat drifts over a calm bay", "image_size": "64*64"}
REAL_SHARE = 1 / 50
"""Jobs of the real ranks for each job of the stub ranks: few, so that they are idle in between."""
STUB_PICTURES = 3000
"""Fronts remember more than that, so their caches are full after 20 minutes of 150 jobs a minute;
and when a picture returns, its stored image has expired."""
REAL_PICTURES = 5
"""Real ranks keep the encodings of a thousand such small pictures, which would look like a leak.
Of these they have all after three minutes of 3 jobs a minute."""


class Soak:
    """The servers under load, and what is measured of them.

    Args:
        stub: A server with stub ranks; its front is restarted and its group g0 loses ranks.
        front: A launcher that joins it with another front, which lives on.
        real: A server with real ranks.
        jobs_per_minute: Of the stub ranks.
    """

    def __init__(
        self, stub: ChaosServer, front: RunningServer, real: ChaosServer, jobs_per_minute: float
    ) -> None:
        self.samples = Samples()
        self.loads = {
            "stub": Load(
                [stub.life.url, front.url],
                jobs_per_minute,
                STUB_JOB,
                seed=1,
                num_pictures=STUB_PICTURES,
            ),
            "real": Load(
                [real.life.url],
                jobs_per_minute * REAL_SHARE,
                SMALL_JOB,
                seed=2,
                num_pictures=REAL_PICTURES,
            ),
        }
        self._stub, self._front, self._real = stub, front, real
        self._random = random.Random(3)

    async def run(self, length_s: float) -> None:
        """Load the servers for some time."""
        work = [
            *(load.run() for load in self.loads.values()),
            self._measure(length_s / NUM_SAMPLES),
            _every(FRONT_EVERY_S, self._restart_front),
            _every(RANK_EVERY_S, self._kill_rank),
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(length_s), asyncio.TaskGroup() as tasks:
                for each in work:
                    tasks.create_task(each)

    async def _measure(self, pause_s: float) -> None:
        started = time.monotonic()
        stub, real = self._stub, self._real
        while True:
            at_s = time.monotonic() - started
            self.samples.take(at_s, "stub", stub.life, stub.state_dir)
            self.samples.take(at_s, "stub, 2nd front", self._front, None)
            self.samples.take(at_s, "real", real.life, real.state_dir)
            await asyncio.sleep(pause_s)

    async def _restart_front(self) -> None:
        if (pid := self._stub.pid_of("http_front")) is not None:
            os.kill(pid, signal.SIGTERM)

    async def _kill_rank(self) -> None:
        if pids := self._stub.life.pids('"group":"g0"'):
            self._stub.kill(self._random.choice(pids))


@asynccontextmanager
async def soak(folder: Path, jobs_per_minute: float) -> AsyncIterator[Soak]:
    """Start the servers; kill them at the end."""
    address = f"tcp://127.0.0.1:{free_port()}"
    ttl = ("--job-ttl", str(JOB_TTL_S))
    for name in ("stub", "real"):
        (folder / name).mkdir()
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(
            chaos_server(
                folder / "stub",
                groups=2,
                nproc=4,
                flags=["--listen", address, *ttl],
                with_ledger=False,
                num_steps=20,
            )
        )
        front = _join(stub, folder, address)
        stack.callback(front.end)
        real = await stack.enter_async_context(
            chaos_server(folder / "real", nproc=2, flags=ttl, ranks_module="ranks")
        )
        await front.wait_until_ready()
        yield Soak(stub, front, real, jobs_per_minute)


def _join(stub: ChaosServer, folder: Path, address: str) -> RunningServer:
    settings = msgspec.json.encode(stub.settings).decode()
    return RunningServer(
        folder / "stub" / "front",
        *("--join", address, "--store", str(stub.state_dir), "--port", "0"),
        command=["-m", "tests.chaos.launch", settings, "front"],
    )


async def _every(period_s: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(period_s)
        await act()


async def run(length_s: float, jobs_per_minute: float) -> bool:
    """Return whether everything was flat and every answer as expected."""
    with tempfile.TemporaryDirectory(prefix="wan-soak-") as folder:
        async with soak(Path(folder), jobs_per_minute) as running:
            await running.run(length_s)
    return print_verdict(running.samples, running.loads, length_s)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=150.0, help="jobs a minute of the stub ranks")
    options = parser.parse_args()
    if options.minutes < LEAST_MINUTES:
        parser.error(f"--minutes must be at least {LEAST_MINUTES}: caches fill in the first few")
    return 0 if asyncio.run(run(options.minutes * 60, options.rate)) else 1


if __name__ == "__main__":
    sys.exit(main())
