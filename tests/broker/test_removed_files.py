"""Files of a running server that are removed: it notices, says so, and loses no accepted job."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.config import BrokerConfig
from broker.journal.journal import Journal
from broker.process.child import UNFIT_EXIT_CODE
from broker.wire.replies import JobFound
from tests.broker.driver import (
    LIMIT_S,
    BrokerProcess,
    Front,
    broker_config,
    new_job_id,
    running_broker,
)
from tests.running_server import until


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    return broker_config(tmp_path)


@asynccontextmanager
async def logging_broker(config: BrokerConfig) -> AsyncIterator[tuple[BrokerProcess, Path]]:
    path = Path(config.state_dir) / "broker.log"
    with path.open("wb") as log:
        async with running_broker(config, log) as broker:
            yield broker, path


async def end_of(broker: BrokerProcess) -> int:
    return await asyncio.wait_for(broker.process.wait(), LIMIT_S)


def remove(config: BrokerConfig, pattern: str) -> None:
    for path in Path(config.state_dir).glob(pattern):
        path.unlink()


@pytest.mark.parametrize("also", ["jobs.sqlite3", "jobs.sqlite3*"])
async def test_a_removed_journal_is_written_again_with_every_job(
    config: BrokerConfig, also: str
) -> None:
    async with logging_broker(config) as (broker, log), Front(config) as front:
        accepted = [await front.submit_ok() for _ in range(3)]
        remove(config, also)
        assert await end_of(broker) == 70  # the launcher starts it again
        assert "jobs.sqlite3 was removed under the running server" in log.read_text()
        await broker.start()
        front.reconnect()
        for job_id in accepted:
            await front.get(job_id)
        await front.submit_ok()


async def test_no_job_is_accepted_into_a_removed_journal(config: BrokerConfig) -> None:
    """Not even in the second before the broker looks: the check follows each write."""
    async with logging_broker(config) as (broker, _), Front(config) as front:
        await front.submit_ok()
        (Path(config.state_dir) / "jobs.sqlite3").unlink()
        await front.send_submit(new_job_id())
        assert await end_of(broker) == 70
        assert not await front.requests.poll(200)


async def test_a_journal_that_was_replaced_stops_the_server_and_keeps_both_files(
    config: BrokerConfig,
) -> None:
    journal = Path(config.state_dir) / "jobs.sqlite3"
    async with logging_broker(config) as (broker, log), Front(config) as front:
        job_id = await front.submit_ok()
        other = journal.with_name("other")
        other.write_bytes(b"a backup, perhaps")
        other.rename(journal)
        assert await end_of(broker) == UNFIT_EXIT_CODE
    assert "another file is now" in log.read_text()
    assert journal.read_bytes() == b"a backup, perhaps"
    saved = Journal(journal.with_name("jobs.sqlite3.saved"))
    assert [job.job_id for job in saved.load()] == [job_id]
    saved.close()


async def test_folders_of_the_store_that_were_removed_are_made_anew(config: BrokerConfig) -> None:
    inputs, videos = Path(config.state_dir) / "inputs", Path(config.state_dir) / "videos"
    async with logging_broker(config) as (_, log), Front(config) as front:
        shutil.rmtree(inputs, ignore_errors=True)
        shutil.rmtree(videos)
        await until(lambda: inputs.is_dir() and (videos / ".partial").is_dir(), LIMIT_S)
        assert f"made anew, removed under the running server: {inputs}" in log.read_text()
        assert isinstance(await front.submit(), JobFound)


async def test_a_broker_whose_socket_was_removed_ends_so_that_the_next_one_binds(
    config: BrokerConfig,
) -> None:
    async with logging_broker(config) as (broker, log), Front(config) as front:
        job_id = await front.submit_ok()
        (Path(config.state_dir) / "run" / "requests.sock").unlink()
        assert await end_of(broker) == 70
        assert "requests.sock was removed under the running server" in log.read_text()
        await broker.start()
        front.reconnect()
        await front.get(job_id)
