"""Owners delete and list their jobs."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest_asyncio

from broker.config import BrokerConfig
from broker.dispatch.commands import DropInput, DropJob, DropVideo, SaveJob, ToGroup
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import CancelRun
from broker.wire.group_reports import JobDecoded, JobFinished
from broker.wire.job import JobState
from broker.wire.replies import FrontReply, JobDeleted, JobFound, JobsListed, Refused
from broker.wire.requests import DeleteJob, GetJob, ListJobs
from tests.broker.dispatch.scene import Scene, find, reply
from tests.broker.driver import IMAGE, SHAPE, SPEC, Front, broker_config, running_broker
from tests.stub_group import StubConfig, StubGroup


@pytest_asyncio.fixture
async def config(tmp_path: Path) -> AsyncIterator[BrokerConfig]:
    config = broker_config(tmp_path)
    async with running_broker(config):
        yield config


def stub(config: BrokerConfig) -> StubGroup:
    videos_dir = str(Path(config.state_dir) / "videos")
    return StubGroup(StubConfig(addresses=config.addresses, videos_dir=videos_dir))


def test_a_running_job_that_is_deleted_is_cancelled_and_leaves_nothing() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    commands = scene.handle(DeleteJob(job_id=job_id))
    (saved,) = find(commands, SaveJob)
    assert saved.job.state is JobState.CANCELLED
    assert [command.message for command in find(commands, ToGroup)] == [CancelRun(lease=lease)]
    assert find(commands, DropJob) == [DropJob(job_id)]
    assert find(commands, DropInput) == [DropInput(IMAGE)]
    assert reply(commands) == JobDeleted()
    scene.handle(JobDecoded(lease=lease))
    assert scene.handle(JobFinished(lease=lease, video="late.mp4")) == [DropVideo(job_id)]


def test_a_deleted_job_does_not_expire_again() -> None:
    scene = Scene(job_ttl_s=5.0)
    job_id = scene.job()
    scene.handle(DeleteJob(job_id=job_id))
    assert find(scene.wait(10), DropJob) == []


async def test_a_deleted_job_is_unknown_and_its_files_are_removed(config: BrokerConfig) -> None:
    async with stub(config), Front(config) as front:
        job_id = await front.submit_ok()
        await front.until(job_id, JobState.SUCCEED)
        assert await front.ask(DeleteJob(job_id=job_id)) == JobDeleted()
        for request in (GetJob(job_id=job_id), DeleteJob(job_id=job_id)):
            refused = await front.ask(request)
            assert isinstance(refused, Refused)
            assert refused.code is ErrorCode.JOB_NOT_FOUND
        await front.submit_ok()  # once it is accepted, the deletion is finished
    names = [path.name for path in (Path(config.state_dir) / "videos").iterdir()]
    assert not [name for name in names if name.startswith(job_id)]


async def test_a_job_of_another_owner_is_not_deleted(config: BrokerConfig) -> None:
    async with Front(config) as front:
        job_id = job_id_of(await front.submit(owner="ann"))
        replies = [
            await front.ask(DeleteJob(job_id=name, owner="bob"))
            for name in (job_id, secrets.token_hex(16))
        ]
        assert replies[0] == replies[1]
        assert (await front.get(job_id)).state is JobState.IN_QUEUE


async def test_the_list_comes_in_pages_newest_or_oldest_first(config: BrokerConfig) -> None:
    async with Front(config) as front:
        ids = [job_id_of(await front.submit(owner=owner)) for owner in ("ann", "ann", "bob", "ann")]
        first = await page(front, ListJobs(limit=2, owner="ann"))
        assert ([job.job_id for job in first.jobs], first.has_more) == ([ids[3], ids[1]], True)
        last = await page(front, ListJobs(limit=2, owner="ann", after=ids[1]))
        assert ([job.job_id for job in last.jobs], last.has_more) == ([ids[0]], False)
        oldest = await page(front, ListJobs(limit=3, oldest_first=True))
        assert [job.job_id for job in oldest.jobs] == ids[:3]
        hidden = await page(front, ListJobs(owner="ann", after=ids[2]))
        assert hidden.jobs == []


async def test_a_reply_shows_spec_stage_times_and_expiry(config: BrokerConfig) -> None:
    async with stub(config), Front(config) as front:
        job_id = await front.submit_ok()
        ended = await front.until(job_id, JobState.SUCCEED)
        assert ended.spec is None
        view = await front.get(job_id)
    assert view.spec == msgspec.structs.replace(SPEC, model=SHAPE.model.name)
    assert view.expires_at == view.updated_at + config.policy.job_ttl_s
    assert list(view.stage_s) == ["queue", "encode", "denoise", "decode", "save"]
    assert sum(view.stage_s.values()) <= view.updated_at - view.created_at + 0.1


def job_id_of(message: FrontReply) -> str:
    assert isinstance(message, JobFound), message
    return message.job.job_id


async def page(front: Front, request: ListJobs) -> JobsListed:
    message = await front.ask(request)
    assert isinstance(message, JobsListed)
    return message


async def test_a_job_that_is_being_removed_is_shown_complete_or_not_at_all(
    config: BrokerConfig,
) -> None:
    async with Front(config) as front, Front(config) as other:
        for _ in range(20):
            job_id = await front.submit_ok()
            deleting = asyncio.create_task(other.ask(DeleteJob(job_id=job_id)))
            while not deleting.done():
                page = await front.ask(ListJobs(limit=100))
                assert isinstance(page, JobsListed)
                assert all(job.spec is not None for job in page.jobs)
                found = await front.ask(GetJob(job_id=job_id))
                if isinstance(found, JobFound):
                    assert found.job.spec is not None
            assert await deleting == JobDeleted()
