"""A group or the broker dies at any point of saving: no client sees an incomplete video."""

import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from broker.wire.job import JobState
from tests.broker.driver import BrokerProcess, Front, broker_config
from tests.chaos.checker import Evidence, violations
from tests.chaos.client import Client, Witness
from tests.chaos.server import chaos_server
from tests.chaos.stub_leader import SAVE_POINTS
from tests.stub_group import FAKE_VIDEO, StubConfig, StubGroup

NUM_DEATHS, NUM_DEATHS_LONG = 4, 20
WRITERS_LIMIT_S = 300.0


async def test_a_group_that_dies_while_saving_leaves_no_incomplete_video(
    tmp_path: Path, is_long: bool
) -> None:
    async with chaos_server(tmp_path) as server, aiohttp.ClientSession() as session:
        client = Client(session, witness := Witness())
        client.url = server.life.url
        for point in SAVE_POINTS * (NUM_DEATHS_LONG if is_long else NUM_DEATHS):
            server.faults.set(point, "die")
            job_id = await client.submit()
            done = await client.until_ended(job_id)
            assert (done["status"], done["attempt"]) == ("Succeed", 2)
            assert server.faults.is_reached(point)
        assert await server.life.stop() == 0
    evidence = Evidence.gather(server.state_dir, server.ledger.read(), witness)
    assert violations(evidence) == []


def test_a_killed_video_writer_never_leaves_an_incomplete_video(
    tmp_path: Path, is_long: bool
) -> None:
    """The writers die in a process of their own, which imports torch once and forks each."""
    count = NUM_DEATHS_LONG if is_long else NUM_DEATHS
    writers = subprocess.run(
        [sys.executable, "-m", "tests.chaos.dying_writers", str(tmp_path), str(count)],
        capture_output=True,
        text=True,
        timeout=WRITERS_LIMIT_S,
        check=False,
    )
    assert writers.returncode == 0, writers.stderr
    assert writers.stdout.splitlines()[-1] == f"{5 * count} deaths, 0 partial videos"


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_broker_that_dies_at_the_last_commit_ends_the_job_once(
    tmp_path: Path, moment: str, is_long: bool
) -> None:
    config = broker_config(tmp_path)
    broker = BrokerProcess(config)
    dying = BrokerProcess(config, "tests.chaos.dying_broker", moment)
    stub = StubConfig(addresses=config.addresses, videos_dir=str(tmp_path / "videos"), num_steps=1)
    for _ in range(NUM_DEATHS_LONG if is_long else NUM_DEATHS):
        await dying.start()
        async with StubGroup(stub), Front(config) as front:
            job_id = await front.submit_ok()
            assert await dying.process.wait() == 137
            assert (tmp_path / "videos" / f"{job_id}.mp4").read_bytes() == FAKE_VIDEO
            await broker.start()
            front.reconnect()
            assert (await front.until(job_id, JobState.SUCCEED)).attempt == 1
        await broker.kill()
