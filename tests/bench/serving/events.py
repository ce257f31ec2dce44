"""The delay from a finished step to its event on a hundred WebSockets."""

import asyncio
import time
from pathlib import Path

import aiohttp

from tests.bench.serving.figures import OURS, Figures
from tests.bench.serving.load import percentiles_ms
from tests.chaos.server import ChaosServer
from tests.running_server import calling

NUM_WATCHERS = 100
NUM_STEPS = 80
STEP_S = 0.05


async def measure_events(folder: Path, figures: Figures, num_rounds: int) -> None:
    """Add rounds, each a job whose steps are recorded by the ranks that make them."""
    server = ChaosServer(folder, num_steps=NUM_STEPS, step_s=STEP_S)
    try:
        await server.start()
        for _ in range(num_rounds):
            p50_ms, p99_ms = percentiles_ms(await _delays_s(server))
            figures.add(f"event to {NUM_WATCHERS} WebSockets, p50 ms", OURS, p50_ms)
            figures.add(f"event to {NUM_WATCHERS} WebSockets, p99 ms", OURS, p99_ms)
    finally:
        server.end()


async def _delays_s(server: ChaosServer) -> list[float]:
    async with calling(server.life) as caller:
        job_id = await caller.submit()
        watchers = [_heard_at_s(caller.session, job_id) for _ in range(NUM_WATCHERS)]
        heard = await asyncio.gather(*watchers)
    # Entry 0 is the encoding, so index and step number agree.
    worked_at_s = [
        entry.at_s
        for entry in server.ledger.read()
        if (entry.what, entry.job_id) == ("worked", job_id)
    ]
    first = max(min(watcher) for watcher in heard)  # from here on, all watchers were connected
    assert first < NUM_STEPS / 2, f"the last watcher came at step {first}"
    return [
        at_s - worked_at_s[step]
        for watcher in heard
        for step, at_s in watcher.items()
        if step > first
    ]


async def _heard_at_s(session: aiohttp.ClientSession, job_id: str) -> dict[int, float]:
    """Return when a watcher received each step, on the clock of the ledger."""
    heard: dict[int, float] = {}
    async with session.ws_connect(f"/video/progress?requestId={job_id}") as feed:
        async for message in feed:
            now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            update = message.json()
            if update["stage"] == "denoise":
                heard.setdefault(update["step"], now_s)
    return heard
