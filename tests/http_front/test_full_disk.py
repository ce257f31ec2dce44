"""A front and a broker on a full disk: 503, no job lost, no restart needed."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from broker.wire.replies import JobFound
from broker.wire.requests import GetJob
from tests.broker.driver import Front, broker_config, running_broker
from tests.http_front.serving import PROMPT, Served, picture, serve
from tests.small_disk import fill, small_disk

LIMIT_S = 30.0


@pytest_asyncio.fixture
async def disk() -> AsyncIterator[Path]:
    # Not in tmp_path, whose path is too long for a socket.
    with (
        tempfile.TemporaryDirectory(prefix="wan-") as folder,
        small_disk(Path(folder) / "disk", 1024) as mounted,
    ):
        yield mounted


async def submit(front: Served, number: int) -> tuple[int, str | None, Any]:
    """Submit a unique picture; return the status, the Retry-After header and the body."""
    form = aiohttp.FormData({"prompt": PROMPT})
    form.add_field("image", picture(64 + number % 200, 64), filename="cat.png")
    async with front.session.post(front.url + "/video/submit", data=form) as response:
        return response.status, response.headers.get("Retry-After"), await response.json()


async def test_a_full_disk_is_reported_and_loses_no_job_and_needs_no_restart(disk: Path) -> None:
    """The server reports its full disk (503) and does not call the image bad (422)."""
    config = broker_config(disk)
    accepted: list[str] = []
    async with running_broker(config) as broker, serve(disk, config.addresses) as front:
        assert (await submit(front, 0))[0] == 202
        ballast = fill(disk)
        refusals = []
        for number in range(1, 30):
            status, retry_after, answer = await submit(front, number)
            if status == 202:
                accepted.append(answer["requestId"])
            else:
                assert (status, answer["error"]["code"]) == (503, "storage_full")
                assert int(retry_after or 0) > 0
                refusals.append(number)
        assert len(refusals) > 20
        ballast.unlink()
        async with asyncio.timeout(LIMIT_S):
            while (await submit(front, 100))[0] != 202:
                pass
        assert broker.process.returncode is None
        async with Front(config) as asker:
            for job_id in accepted:
                assert isinstance(await asker.ask(GetJob(job_id=job_id)), JobFound)
