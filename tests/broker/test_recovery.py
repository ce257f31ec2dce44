"""Accepted jobs survive kills of the broker and full disks; orphaned files are removed."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from broker.config import BrokerConfig
from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.job_record import Job
from broker.errors import StateDirInUseError
from broker.janitor import Janitor
from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from broker.server import Broker
from broker.store.folder import FolderStore
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import Drained, GroupCommand, Reregister, RunJob, group_commands
from broker.wire.group_reports import DrainBroker, group_reports
from broker.wire.job import JobState
from broker.wire.job_view import Lease
from broker.wire.replies import JobFound, Refused
from broker.wire.requests import CancelJob
from broker.wire.sockets import connect_dealer
from tests.broker.driver import (
    LIMIT_S,
    POLICY,
    SPEC,
    Front,
    broker_config,
    new_job_id,
    running_broker,
)
from tests.stub_group import StubConfig, StubGroup


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    return broker_config(tmp_path)


def stub(config: BrokerConfig) -> StubGroup:
    videos_dir = str(Path(config.state_dir) / "videos")
    return StubGroup(StubConfig(addresses=config.addresses, videos_dir=videos_dir))


async def test_accepted_jobs_survive_a_kill_before_they_start(
    config: BrokerConfig,
) -> None:
    async with running_broker(config) as broker, Front(config) as front:
        jobs = [await front.submit_ok() for _ in range(5)]
        await broker.kill()
        await broker.start()
        async with stub(config) as group:
            for job_id in jobs:
                assert (await front.until(job_id, JobState.SUCCEED)).attempt == 1
            run_commands = [command for command in group.received if isinstance(command, RunJob)]
            assert [run.lease.job_id for run in run_commands] == jobs


async def test_every_job_that_a_killed_broker_accepted_is_known_after_its_restart(
    config: BrokerConfig,
) -> None:
    accepted: list[str] = []
    async with running_broker(config) as broker, Front(config) as front:
        for num_replies in (1, 7, 20):
            for _ in range(25):
                await front.send_submit(new_job_id())
            for reply in await front.replies(num_replies):
                assert isinstance(reply, JobFound)
                accepted.append(reply.job.job_id)
            await broker.kill()
            await broker.start()
            front.reconnect()
        for job_id in accepted:
            assert (await front.get(job_id)).state is JobState.IN_QUEUE


async def test_an_attempt_continues_while_the_broker_is_restarted(config: BrokerConfig) -> None:
    async with running_broker(config) as broker, stub(config) as group, Front(config) as front:
        group.hold.clear()
        job_id = await front.submit_ok()
        await group.heard(RunJob)
        before = await front.watch(job_id)
        await broker.kill()
        await broker.start()
        group.hold.set()
        view = await front.until(job_id, JobState.SUCCEED)
        assert view.attempt == 1
        assert view.seq > before.seq
        assert len([command for command in group.received if isinstance(command, RunJob)]) == 1


async def test_a_broker_started_during_a_drain_starts_no_job(
    config: BrokerConfig,
) -> None:
    """Groups register before the launcher repeats that it drains."""
    async with running_broker(config) as broker, Front(config) as front:
        job_id = await front.submit_ok()
        await broker.kill()
        broker.config = msgspec.structs.replace(config, draining=True)
        await broker.start()
        async with stub(config):
            health = await front.until_health(lambda health: any(g.ready for g in health.groups))
            assert (health.draining, health.ready, health.running) == (True, False, 0)
            assert (await front.get(job_id)).state is JobState.IN_QUEUE


async def test_a_draining_launcher_is_asked_to_register_only_once(
    config: BrokerConfig,
) -> None:
    """A drain counts as a registration; otherwise the two would ask and answer forever."""
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        await front.submit_ok()
        await group.heard(RunJob)
        with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as launcher:
            connect_dealer(launcher, config.addresses.groups, "launcher")
            received: list[GroupCommand] = []
            for _ in range(2):
                await launcher.send_multipart(group_reports.encode(DrainBroker()))
                await front.until_health(lambda health: health.draining)
            group.hold.set()
            async with asyncio.timeout(LIMIT_S):
                while Drained() not in received:
                    received.append(group_commands.decode(await launcher.recv_multipart()))
        assert received == [Reregister(), Drained()]


async def test_a_job_that_finished_while_the_broker_was_down_has_succeeded(
    config: BrokerConfig,
) -> None:
    async with running_broker(config) as broker, stub(config) as group, Front(config) as front:
        group.hold.clear()
        job_id = await front.submit_ok()
        await group.heard(RunJob)
        await broker.kill()
        group.hold.set()
        await group.until_idle()
        await broker.start()
        assert (await front.until(job_id, JobState.SUCCEED)).attempt == 1


async def test_a_confirmed_cancel_survives_a_kill(config: BrokerConfig) -> None:
    async with running_broker(config) as broker, stub(config) as group, Front(config) as front:
        group.hold.clear()
        cancelled, after = await front.submit_ok(), await front.submit_ok()
        await group.heard(RunJob)
        group.behaviour = "never_stop"
        reply = await front.ask(CancelJob(job_id=cancelled))
        assert isinstance(reply, JobFound)
        await broker.kill()
        group.behaviour = "succeed"
        await broker.start()
        group.hold.set()
        await front.until(after, JobState.SUCCEED)
        assert (await front.get(cancelled)).state is JobState.CANCELLED
        assert not (Path(config.state_dir) / "videos" / f"{cancelled}.mp4").exists()


async def test_a_stop_leaves_an_intact_journal(config: BrokerConfig) -> None:
    async with running_broker(config) as broker, Front(config) as front:
        job_id = await front.submit_ok()
        assert await broker.stop() == 0
    connection = sqlite3.connect(Path(config.state_dir) / "jobs.sqlite3")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT job_id, state FROM jobs").fetchall() == [
            (job_id, "InQueue")
        ]
    finally:
        connection.close()


# --- a full disk ---------------------------------------------------------------------------------


@asynccontextmanager
async def broker_with_journal(config: BrokerConfig) -> AsyncIterator[Journal]:
    """Run a broker in this process, so that the test can fill its disk."""
    state_dir = StateDir(Path(config.state_dir))
    journal = Journal(state_dir.journal)
    broker = Broker(config, journal)
    task = asyncio.create_task(broker.run())
    try:
        yield journal
    finally:
        await broker.stop()
        await asyncio.wait_for(task, 20.0)
        journal.close()
        state_dir.close()


def fill(journal: Journal) -> None:
    """Forbid the journal to grow, as a full disk does."""
    journal._connection.pragma("max_page_count", journal._connection.pragma("page_count"))


def make_room(journal: Journal) -> None:
    journal._connection.pragma("max_page_count", 100_000)


async def test_a_full_disk_refuses_new_jobs_until_there_is_room_again(config: BrokerConfig) -> None:
    async with broker_with_journal(config) as journal, Front(config) as front:
        job_id = await front.submit_ok()
        fill(journal)
        refused: list[Refused] = []
        while not refused:
            reply = await front.submit(LONG)
            refused += [reply] if isinstance(reply, Refused) else []
        assert refused[0].code is ErrorCode.STORAGE_FULL
        assert refused[0].retry_after_s == 30
        assert (await front.get(job_id)).state is JobState.IN_QUEUE
        make_room(journal)
        await front.submit_ok()


LONG = msgspec.structs.replace(SPEC, prompt="a cat " * 80)


async def test_an_attempt_waits_for_room_on_the_disk_and_is_not_killed(
    config: BrokerConfig,
) -> None:
    async with broker_with_journal(config) as journal, Front(config) as front:
        jobs = [await front.submit_ok()]
        fill(journal)
        while isinstance(reply := await front.submit(LONG), JobFound):
            jobs.append(reply.job.job_id)
        # The history has no room for many more entries: the next transitions have to wait.
        async with stub(config) as group:
            views = [await front.get(job_id) for job_id in jobs]
            assert {view.state for view in views} <= {JobState.IN_QUEUE, JobState.IN_PROGRESS}
            make_room(journal)
            for job_id in jobs:
                assert (await front.until(job_id, JobState.SUCCEED)).attempt == 1
            assert group.epoch == 1


# --- files ---------------------------------------------------------------------------------------


def job(number: int) -> Job:
    job_id = f"{number:032x}"
    image = f"{number:064x}.ppm"
    return Job(number=number, job_id=job_id, spec=SPEC, image=image, created_at=1.0, updated_at=1.0)


def running(waiting: Job) -> Job:
    lease = Lease(group="a", epoch=1, job_id=waiting.job_id, attempt=1)
    return waiting.leased(lease, "hash", 2.0)


def test_a_start_removes_files_without_a_job_and_keeps_all_others(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.prepare()
    waiting = msgspec.structs.replace(job(1), last_image=f"{5:064x}.ppm")
    busy = running(job(2))
    done = running(job(3)).ended(JobState.SUCCEED, 3.0, video="x.mp4")
    cancelled = msgspec.structs.replace(
        running(job(4)).ended(JobState.CANCELLED, 3.0), last_image=f"{6:064x}.ppm"
    )
    kept = {
        *(f"inputs/{number:064x}.ppm" for number in range(1, 7)),
        f"videos/{busy.job_id}.mp4",
        f"videos/{done.job_id}.mp4",
        f"videos/.partial/{busy.job_id}.1.mp4",
        f"checkpoints/{waiting.job_id}.safetensors",
        f"checkpoints/{busy.job_id}.safetensors",
        # Files of others, also if their names look a little like ours.
        "inputs/photo.png",
        "inputs/half-written",
        "videos/holiday-2019.mp4",
        "videos/notes.txt",
        f"videos/{'9' * 32}.mov",
        f"videos/.partial/{done.job_id}.mp4",
        "checkpoints/resnet50.pth",
        "checkpoints/model.safetensors",
    }
    removed = {
        f"inputs/{9:064x}.ppm",
        f"videos/{'9' * 32}.mp4",
        f"videos/{cancelled.job_id}.mp4",
        f"videos/.partial/{busy.job_id}.0.mp4",
        f"videos/.partial/{done.job_id}.1.mp4",
        f"checkpoints/{done.job_id}.safetensors",
        f"checkpoints/{'9' * 32}.safetensors",
    }
    for name in kept | removed:
        (tmp_path / name).write_bytes(b"x")
    jobs = [waiting, busy, done, cancelled]
    Janitor(store, Dispatcher(POLICY, jobs)).begin()
    folders = ("inputs", "videos", "checkpoints")
    paths = [path for folder in folders for path in (tmp_path / folder).rglob("*")]
    assert {str(path.relative_to(tmp_path)) for path in paths if path.is_file()} == kept


def test_a_state_directory_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    first = StateDir(tmp_path)
    with pytest.raises(StateDirInUseError, match="another broker uses the state directory"):
        StateDir(tmp_path)
    first.close()
    StateDir(tmp_path).close()
