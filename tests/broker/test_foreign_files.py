"""No start removes what another server, or an earlier journal, still needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.config import BrokerConfig
from broker.process.child import UNFIT_EXIT_CODE
from broker.store.opening import open_store
from broker.store.store import INPUTS, VIDEOS, Move
from tests.broker.driver import (
    IMAGE,
    BrokerProcess,
    Front,
    broker_config,
    run_to_the_end,
    running_broker,
)
from tests.object_store import Site

OLD_VIDEO = f"{VIDEOS}/{'7' * 32}.mp4"


@pytest.fixture(params=["folder", "bucket"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerConfig]:
    if request.param == "folder":
        yield broker_config(tmp_path)
    else:
        site: Site = request.getfixturevalue("site")
        yield broker_config(tmp_path, store=site.place)


def put(config: BrokerConfig, tmp_path: Path, *names: str) -> None:
    store = open_store(config.store or config.state_dir, str(tmp_path / "work"))
    store.prepare()
    for name in names:
        source = store.partial(INPUTS) / "source"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(b"content")
        store.put([Move(source, name)])


def has(config: BrokerConfig, name: str) -> bool:
    return open_store(config.store or config.state_dir).has(name)


async def test_a_new_journal_refuses_the_files_of_an_earlier_one(
    config: BrokerConfig, tmp_path: Path
) -> None:
    """Who moves a damaged journal away must not lose every finished video by that."""
    put(config, tmp_path, f"{INPUTS}/{IMAGE}", OLD_VIDEO)
    for _ in range(2):  # the first refusal must not make the journal look old
        code, log = await run_to_the_end(config)
        assert code == UNFIT_EXIT_CODE, log
        place = config.store or config.state_dir
        assert f"jobs.sqlite3 is missing or empty, but {place} holds 2 files of its jobs" in log
        assert "move inputs, videos and checkpoints away" in log
    assert has(config, OLD_VIDEO)


async def test_a_new_journal_starts_beside_files_of_others_and_keeps_them(
    config: BrokerConfig, tmp_path: Path
) -> None:
    foreign = [f"{VIDEOS}/holiday-2019.mp4", f"{INPUTS}/photo.png"]
    put(config, tmp_path, *foreign)
    broker = BrokerProcess(config)
    for _ in range(2):
        await broker.start()
        assert await broker.stop() == 0
    assert all(has(config, name) for name in foreign)


async def test_a_log_without_its_journal_is_kept(tmp_path: Path) -> None:
    """SQLite itself would delete it, with every job since the last checkpoint."""
    config = broker_config(tmp_path)
    journal, saved = tmp_path / "jobs.sqlite3", tmp_path / "elsewhere"
    async with running_broker(config) as broker, Front(config) as front:
        job_id = await front.submit_ok()
        await broker.kill()
        journal.rename(saved)
        code, log = await run_to_the_end(config)
        assert code == UNFIT_EXIT_CODE
        assert "jobs.sqlite3-wal with its latest changes is there; put the journal back" in log
        saved.rename(journal)
        await broker.start()
        front.reconnect()
        await front.get(job_id)
