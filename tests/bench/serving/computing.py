"""Start time, status latency while all ranks compute, and the ranks' idle time, against rival 1."""

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
from tests.realtime_front import realtime_priority
from tests.running_server import RunningServer, calling, running_server

NUM_ASKED = 300
ASK_EVERY_S = 0.01
LIMIT_S = 120.0
STATUS = "status while computing"
REALTIME_STATUS = "status while computing, real-time front"

LONG_JOB = {
    "prompt": "A small boat drifts over a calm bay",
    "image_url": small_image_url(),
    "image_size": "128*128",
    "num_frames": 24,
    "infer_steps": 100,
    "seed": 7,
}


class Ranks:
    """Eight ranks on the demo model: this server's and the rival's in turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state_dir = folder / "state"

    async def prepare(self) -> None:
        async with running_server(self._state_dir) as server:
            await server.stop()

    async def measure(self, figures: Figures) -> None:
        """Add a round: this server, this server with a real-time front, then the rival."""
        begun = time.monotonic()
        async with running_server(self._state_dir) as server:
            figures.add("start to ready, s", OURS, time.monotonic() - begun)
            async with calling(server) as caller:
                figures.add("idle between two jobs, ms", OURS, await gap_ms(caller))
            await _ask_and_stop(server, figures, STATUS)
        async with running_server(self._state_dir, "--realtime-front") as server:
            await _ask_and_stop(server, figures, REALTIME_STATUS)
        async with self._rival() as (url, ready_s), connection(url) as line:
            figures.add("start to ready, s", RIVAL_1, ready_s)
            _, percentiles = await _ask_while_computing(line)
        for name in (STATUS, REALTIME_STATUS):
            _add(figures, name, RIVAL_1, percentiles)

    @asynccontextmanager
    async def _rival(self) -> AsyncIterator[tuple[str, float]]:
        model = next(self._state_dir.glob("demo-model-*"))
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            async with fastapi_ranks(model, Path(folder)) as started:
                yield started


async def _ask_and_stop(server: RunningServer, figures: Figures, name: str) -> None:
    async with connection(server.url) as line:
        job, percentiles = await _ask_while_computing(line)
        await line.post("/video/cancel", job)
    _add(figures, name, OURS, percentiles)
    await server.stop()


async def _ask_while_computing(line: Connection) -> tuple[dict[str, str], tuple[float, float]]:
    """Request the status of a running job a hundred times a second.

    Returns:
        The job; median and 99th percentile in milliseconds.
    """
    answer = await line.post("/video/submit", LONG_JOB, expected=202)
    job = {"requestId": answer["requestId"]}
    async with asyncio.timeout(LIMIT_S):
        while (await line.post("/video/status", job))["progress"] < 0.06:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    latencies_s = []
    with realtime_priority():
        for _ in range(NUM_ASKED):
            asked = time.perf_counter()
            await line.post("/video/status", job)
            latencies_s.append(time.perf_counter() - asked)
            await asyncio.sleep(ASK_EVERY_S)
    status = await line.post("/video/status", job)
    assert status["status"] == "InProgress", status
    assert status["progress"] < 0.9, status
    return job, percentiles_ms(latencies_s)


def _add(figures: Figures, name: str, side: str, percentiles_ms: tuple[float, float]) -> None:
    for part, value in zip(("p50", "p99"), percentiles_ms, strict=True):
        figures.add(f"{name}, {part} ms", side, value)
