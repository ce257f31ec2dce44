"""Every rank dies once in every stage; the group restarts and finishes the job."""

import os
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.chaos.client import Client, Witness
from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_RANKS = 8
NOTICED_S = 2.0
REAPED_S = 15.0
LIMIT_S = 20.0
POINTS = {"load": "load", "denoise": "denoise", "decode": "decode", "save": "rename"}
"""Where rank 0 is held so that a rank can be killed in a stage; an idle group needs no hold."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChaosServer]:
    async with chaos_server(tmp_path_factory.mktemp("deaths")) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: ChaosServer) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        client = Client(session, Witness())
        client.url = server.life.url
        yield client


async def ranks_of(server: ChaosServer) -> dict[int, int]:
    """Return the pids of the group's ranks, once all have been forked."""
    await until(lambda: len(server.ledger.pids()["g0"]) == NUM_RANKS, LIMIT_S)
    return server.ledger.pids()["g0"]


async def reach(server: ChaosServer, client: Client, stage: str) -> str | None:
    """Bring the group into a stage; return its job, if it runs one."""
    await server.until_healthy()
    if stage == "idle":
        return None
    server.faults.set(POINTS[stage], "hold")
    job_id = None
    if stage == "load":
        server.kill((await ranks_of(server))[0])
    else:
        job_id = await client.submit()
    await until(lambda: server.faults.is_reached(POINTS[stage]), LIMIT_S)
    return job_id


def is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("stage", ["load", "idle", "denoise", "decode", "save"])
@pytest.mark.parametrize("rank", range(NUM_RANKS))
async def test_a_killed_rank_is_noticed_its_group_reaped_and_the_job_done(
    server: ChaosServer, client: Client, rank: int, stage: str
) -> None:
    job_id = await reach(server, client, stage)
    pids = await ranks_of(server)
    notice = f"is gone: rank {rank} was ended by SIGKILL"
    num_notices = server.life.log().count(notice)
    killed_at = time.monotonic()
    server.kill(pids[rank])
    await until(lambda: server.life.log().count(notice) > num_notices, REAPED_S)
    # The launcher logs it only after it has reaped all others.
    assert not [pid for pid in pids.values() if is_running(pid)]
    assert time.monotonic() - killed_at < NOTICED_S
    done = await client.until_ended(job_id or await client.submit())
    assert (done["status"], done["attempt"]) == ("Succeed", 2 if job_id else 1)
