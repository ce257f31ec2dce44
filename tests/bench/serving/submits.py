"""Submits that are on disk when answered, against rival 2; neither server does real work."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path

from tests.bench.rivals.processes import fastapi_celery_redis
from tests.bench.serving.figures import OURS, RIVAL_2, Figures
from tests.bench.serving.load import Outcome, crowd, post, small_image_url
from tests.chaos.server import ChaosServer

NUM_CLIENTS = (1, 16, 128)
NUM_NEW = 16
SECONDS = 2.5
WORK_S = 3600.0
JOB = {
    "prompt": "A small boat drifts over a calm bay",
    "image_url": small_image_url(),
    "image_size": "128*128",
    "num_frames": 24,
    "infer_steps": 20,
}


class Queues:
    """This server with ranks that only sleep, and the rival with a worker that does."""

    def __init__(self, our_url: str, rival_url: str) -> None:
        self._urls = {OURS: our_url, RIVAL_2: rival_url}

    async def measure(self, figures: Figures) -> None:
        """Add a round: each number of clients, at this server and then at the rival."""
        for num_clients in NUM_CLIENTS:
            for side, url in self._urls.items():
                same = repeat(post("/video/submit", JOB))
                outcome = await crowd(url, same, num_clients, SECONDS)
                _add(figures, num_clients, side, outcome)
        outcome = await crowd(self._urls[OURS], _new_pictures(), NUM_NEW, SECONDS)
        figures.add(f"submits of new pictures a second, {NUM_NEW} clients", OURS, outcome.per_s)


@asynccontextmanager
async def queues(folder: Path) -> AsyncIterator[Queues]:
    ours = ChaosServer(folder / "ours", max_queue=10_000_000, step_s=WORK_S)
    try:
        await ours.start()
        with tempfile.TemporaryDirectory(dir=folder) as rival_folder:
            async with fastapi_celery_redis(Path(rival_folder)) as rival_url:
                yield Queues(ours.life.url, rival_url)
    finally:
        ours.end()


def _new_pictures() -> Iterator[bytes]:
    while True:
        image_url = small_image_url(secrets.token_bytes(16))
        yield post("/video/submit", JOB | {"image_url": image_url})


def _add(figures: Figures, num_clients: int, side: str, outcome: Outcome) -> None:
    clients = f"{num_clients} client{'s' if num_clients > 1 else ''}"
    figures.add(f"submits a second, {clients}", side, outcome.per_s)
    figures.add(f"submit, {clients}, p50 ms", side, outcome.p50_ms)
    figures.add(f"submit, {clients}, p99 ms", side, outcome.p99_ms)
