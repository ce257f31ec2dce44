"""Eight real ranks with gloo die, one per test, in every stage."""

import itertools
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import Caller, calling, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTICED_S = 2.0
REAPED_S = 15.0
LIMIT_S = 120.0
"""For a busy machine: eight ranks load again first."""
SHORT = [("load", 6), ("decode", 3)]
LONG = list(itertools.product(("load", "idle", "denoise", "decode", "save"), range(8)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_long = metafunc.config.getoption("--cycles", 0) > 24
    metafunc.parametrize(("stage", "rank"), LONG if is_long else SHORT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChaosServer]:
    folder = tmp_path_factory.mktemp("real")
    async with chaos_server(folder, ranks_module="ranks") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def caller(server: ChaosServer) -> AsyncIterator[Caller]:
    async with calling(server.life) as caller:
        yield caller


async def pids_of(caller: Caller, stage: str) -> dict[int, int]:
    """Return the pid of each rank, once all report a stage."""
    while True:
        async with caller.session.get("/health") as response:
            ranks: list[dict[str, Any]] = (await response.json())["ranks"]
        if {rank["stage"] for rank in ranks} == {stage} and len(ranks) == 8:
            return {rank["rank"]: rank["pid"] for rank in ranks}


def is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def test_a_killed_real_rank_is_noticed_its_group_reaped_and_the_job_done(
    server: ChaosServer, caller: Caller, stage: str, rank: int
) -> None:
    await server.until_healthy()
    pids = await pids_of(caller, "idle")
    job_id = None
    if stage == "load":
        server.kill(pids[rank])
        pids = await pids_of(caller, "load")
    elif stage != "idle":
        job_id = await caller.submit()
        await caller.wait_for(job_id, stage=stage)
    notice = f"is gone: rank {rank} was ended by SIGKILL"
    num_notices = server.life.log().count(notice)
    killed_at = time.monotonic()
    server.kill(pids[rank])
    await until(lambda: not is_running(pids[rank]), NOTICED_S)
    await until(lambda: server.life.log().count(notice) > num_notices, REAPED_S)
    assert not any(map(is_running, pids.values()))
    assert time.monotonic() - killed_at < REAPED_S
    done = await caller.wait_for(job_id or await caller.submit(), LIMIT_S, status="Succeed")
    # A video may be complete before the group of the dead rank is ended.
    assert done["attempt"] in {"denoise": (2,), "decode": (1, 2), "save": (1, 2)}.get(stage, (1,))
