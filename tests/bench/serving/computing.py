"""Start, status while all ranks compute, and the ranks' idle time, beside rival 1."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.rivals.processes import fastapi_ranks
from tests.bench.server import gap_ms
from tests.bench.serving.figures import OURS, RIVAL_1, Figures
from tests.bench.serving.load import (
    Connection,
    connection,
    percentiles_ms,
    small_image_url,
)
from tests.running_server import calling, running_server

NUM_ASKED = 300
ASK_EVERY_S = 0.01
LIMIT_S = 120.0

LONG_JOB = {
    "prompt": "A small boat drifts over a calm bay",
    "image_url": small_image_url(),
    "image_size": "128*128",
    "num_frames": 24,
    "infer_steps": 100,
    "seed": 7,
}


class Ranks:
    """Eight ranks on the demo model: now this server's, now the rival's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state_dir = folder / "state"

    async def prepare(self) -> None:
        """Have the demo model made."""
        async with running_server(self._state_dir) as server:
            await server.stop()

    async def measure(self, figures: Figures) -> None:
        """Add a round: this server, then the rival."""
        begun = time.monotonic()
        async with running_server(self._state_dir) as server:
            figures.add("start to ready, s", OURS, time.monotonic() - begun)
            async with calling(server) as caller:
                figures.add("idle between two jobs, ms", OURS, await gap_ms(caller))
                async with connection(server.url) as line:
                    job_id = await _ask_while_computing(line, figures, OURS)
                await caller.post("/video/cancel", job_id)
            await server.stop()
        async with self._rival() as (url, ready_s), connection(url) as line:
            figures.add("start to ready, s", RIVAL_1, ready_s)
            await _ask_while_computing(line, figures, RIVAL_1)

    @asynccontextmanager
    async def _rival(self) -> AsyncIterator[tuple[str, float]]:
        model = next(self._state_dir.glob("demo-model-*"))
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            async with fastapi_ranks(model, Path(folder)) as started:
                yield started


async def _ask_while_computing(line: Connection, figures: Figures, side: str) -> str:
    """Ask for a running job a hundred times a second; return its id."""
    answer = await line.post("/video/submit", LONG_JOB, expected=202)
    job = {"requestId": answer["requestId"]}
    async with asyncio.timeout(LIMIT_S):
        while (await line.post("/video/status", job))["progress"] < 0.06:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    latencies_s = []
    for _ in range(NUM_ASKED):
        asked = time.perf_counter()
        await line.post("/video/status", job)
        latencies_s.append(time.perf_counter() - asked)
        await asyncio.sleep(ASK_EVERY_S)
    status = await line.post("/video/status", job)
    assert status["status"] == "InProgress", status
    assert status["progress"] < 0.9, status
    p50_ms, p99_ms = percentiles_ms(latencies_s)
    figures.add("status while computing, p50 ms", side, p50_ms)
    figures.add("status while computing, p99 ms", side, p99_ms)
    return str(job["requestId"])
