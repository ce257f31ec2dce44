"""The whole server on NPUs: two groups of two ranks, as an operator starts it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.npu.stand_in import StandIn
from tests.running_server import Caller, RunningServer, calling
from tests.test_server import num_frames

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = "64*64"
RECOVERY_LIMIT_S = 100.0
"""Less than the 136 s after which a collective gives a lost peer up."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(server_process: RunningServer) -> RunningServer:
    await server_process.wait_until_ready()
    return server_process


@pytest_asyncio.fixture(loop_scope="module")
async def caller(server: RunningServer) -> AsyncIterator[Caller]:
    async with calling(server) as caller:
        yield caller


async def ranks_of(caller: Caller) -> list[dict[str, Any]]:
    """Return all ranks as they have last reported themselves."""
    async with caller.session.get("/health") as response:
        ranks: list[dict[str, Any]] = (await response.json())["ranks"]
    return ranks


async def test_an_image_becomes_a_video_with_previews_on_the_way(
    caller: Caller, tmp_path: Path
) -> None:
    job_id = await caller.submit(image_size=SMALL)
    change: dict[str, Any] = {}
    previews = []
    path = f"/video/progress?requestId={job_id}&previews=1"
    async with caller.session.ws_connect(path) as feed:
        async for message in feed:
            if message.type is aiohttp.WSMsgType.BINARY:
                previews.append(message.data)
            else:
                change = message.json()
    assert change["status"] == "Succeed"
    assert previews
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in previews)
    async with caller.session.get(change["results"]["video_url"]) as response:
        video = await response.read()
    assert await asyncio.to_thread(num_frames, video, tmp_path, 64, 64) == 24


async def test_jobs_at_the_same_time_use_the_devices_of_both_groups_alone(
    caller: Caller, npu: StandIn
) -> None:
    jobs = [await caller.submit(image_size=SMALL) for _ in range(4)]
    await asyncio.gather(*(caller.wait_for(job_id, status="Succeed") for job_id in jobs))
    devices = set()
    for rank in await ranks_of(caller):
        entries = npu.entries(rank["pid"])
        devices |= {entry.device for entry in entries}
        assert all(entry.foreign_bytes == 0 for entry in entries)
        assert all("refused" not in entry.counts for entry in entries)
        assert entries[-1].memory["allocated"] == entries[-2].memory["allocated"]
    assert devices == {0, 1, 2, 3}


async def test_a_cancelled_job_frees_its_group(caller: Caller) -> None:
    cancelled = await caller.submit(image_size=SMALL, infer_steps="100")
    await caller.wait_for(cancelled, stage="denoise")
    assert (await caller.post("/video/cancel", cancelled))["status"] == "Cancelled"
    following = await caller.submit(image_size=SMALL)
    await caller.wait_for(following, status="Succeed")
    assert (await caller.status(cancelled))["status"] == "Cancelled"


async def test_a_job_of_a_killed_rank_goes_on_before_a_collective_gives_up(
    server: RunningServer, caller: Caller
) -> None:
    """Fails if recovery waits for the other ranks to notice: HCCL hangs for a lost peer."""
    job_id = await caller.submit(image_size=SMALL, infer_steps="100")
    await caller.wait_for(job_id, stage="denoise")
    line = await server.wait_until_logged(f"[{job_id}] InProgress, attempt 1 on group")
    group = line.split()[-1]
    *_, last_pid = (rank["pid"] for rank in await ranks_of(caller) if rank["group"] == group)
    os.kill(last_pid, signal.SIGKILL)
    done = await caller.wait_for(job_id, RECOVERY_LIMIT_S, status="Succeed")
    assert done["attempt"] == 2


async def test_a_drain_lets_the_running_job_finish_and_ends_the_server(
    server: RunningServer, caller: Caller
) -> None:
    job_id = await caller.submit(image_size=SMALL, infer_steps="50")
    await caller.wait_for(job_id, stage="denoise")
    async with caller.session.post("/admin/drain") as response:
        assert response.status == 202
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    farewell = server.log().partition("drain: stopping")[2]
    assert f"{job_id}" in farewell
    assert "ERROR" not in farewell
    assert "Traceback" not in farewell
