"""A hung rank is killed; a slow one is not."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.chaos.client import Client, Witness
from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import until

HEARTBEAT_LIMIT_S = 10.0
STEP_LIMIT_S = 1.0
FIRST_STEP_LIMIT_S = 5.0
TICK_S = 1.0
STACKS_S = 1.0
SLACK_S = 1.5
"""For a busy machine."""


@asynccontextmanager
async def serving(folder: Path, **settings: object) -> AsyncIterator[tuple[ChaosServer, Client]]:
    async with (
        chaos_server(folder, step_timeout=STEP_LIMIT_S, **settings) as server,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, Witness())
        client.url = server.life.url
        yield server, client


async def test_a_stopped_rank_is_noticed_within_ten_seconds_and_a_tick(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, client):
        pids = server.ledger.pids()["g0"]
        os.kill(pids[5], signal.SIGSTOP)
        stopped_at = time.monotonic()
        await server.life.wait_until_logged("rank 5 has sent no heartbeat")
        assert time.monotonic() - stopped_at < HEARTBEAT_LIMIT_S + TICK_S + SLACK_S
        await until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids.values()), 5.0)
        assert (await client.until_ended(await client.submit()))["status"] == "Succeed"
        # All ranks but the stopped one have dumped their stacks.
        assert server.life.log().count("Current thread") == len(pids) - 1


async def test_a_step_that_never_ends_is_killed_though_every_rank_sends_heartbeats(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (server, client):
        server.faults.set("denoise", "hold")
        job_id = await client.submit()
        await until(lambda: server.faults.is_reached("denoise"), 10.0)
        held_at = time.monotonic()
        await server.life.wait_until_logged("has finished nothing in stage denoise")
        assert time.monotonic() - held_at < FIRST_STEP_LIMIT_S + TICK_S + SLACK_S
        done = await client.until_ended(job_id)
        assert (done["status"], done["attempt"]) == ("Succeed", 2)


async def test_steps_that_take_five_times_as_long_may_finish(tmp_path: Path) -> None:
    async with serving(tmp_path, step_s=0.3, num_steps=3) as (server, client):
        usual, slow = await client.submit(), await client.submit()
        await client.until_ended(usual)
        server.faults.set("denoise", "slow")
        done = await client.until_ended(slow)
        assert (done["status"], done["attempt"]) == ("Succeed", 1)
        assert "has finished nothing" not in server.life.log()
