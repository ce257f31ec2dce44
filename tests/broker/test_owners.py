"""Jobs belong to API keys. Every check fails once the broker does not look at `owner`."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import FrontReply, JobFound, JobHistory, JobsListed, Refused
from broker.wire.requests import CancelJob, GetJob, IdempotencyKey, ListJobs, WatchJob
from tests.broker.driver import BrokerProcess, Front, broker_config, running_broker


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    async with running_broker(broker_config(tmp_path)) as broker:
        yield broker


@pytest_asyncio.fixture
async def front(broker: BrokerProcess) -> AsyncIterator[Front]:
    async with Front(broker.config) as front:
        yield front


async def submit(front: Front, owner: str | None, key: str | None = None) -> FrontReply:
    idempotency_key = IdempotencyKey(key=key, request_hash="0" * 64) if key else None
    return await front.submit(owner=owner, queue_share=2, idempotency_key=idempotency_key)


async def job_of(front: Front, owner: str | None, key: str | None = None) -> str:
    reply = await submit(front, owner, key)
    assert isinstance(reply, JobFound), reply
    return reply.job.job_id


async def test_another_owners_job_is_answered_as_an_unknown_one(front: Front) -> None:
    others, unknown = await job_of(front, "bob"), secrets.token_hex(16)
    answers: set[Refused] = set()
    for name in (others, unknown):
        for request in (
            GetJob(job_id=name, owner="ann"),
            CancelJob(job_id=name, owner="ann"),
            WatchJob(job_id=name, after_seq=0, owner="ann"),
        ):
            answer = await front.ask(request)
            assert isinstance(answer, Refused)
            assert answer.code is ErrorCode.JOB_NOT_FOUND
            answers.add(answer)
    assert len(answers) == 1
    assert (await front.get(others)).state is JobState.IN_QUEUE


async def test_an_owner_sees_and_ends_its_own_jobs(front: Front) -> None:
    job_id = await job_of(front, "ann")
    await job_of(front, "bob")
    assert isinstance(await front.ask(GetJob(job_id=job_id, owner="ann")), JobFound)
    watched = await front.ask(WatchJob(job_id=job_id, after_seq=0, owner="ann"))
    assert isinstance(watched, JobHistory)
    listed = await front.ask(ListJobs(owner="ann"))
    assert isinstance(listed, JobsListed)
    assert [job.job_id for job in listed.jobs] == [job_id]
    ended = await front.ask(CancelJob(job_id=job_id, owner="ann"))
    assert isinstance(ended, JobFound)
    assert ended.job.state is JobState.CANCELLED


async def test_an_owner_may_fill_its_share_of_the_queue_and_no_more(front: Front) -> None:
    first, _ = await job_of(front, "ann"), await job_of(front, "ann")
    refused = await submit(front, "ann")
    assert isinstance(refused, Refused)
    assert refused.code is ErrorCode.QUEUE_FULL
    assert refused.message == "2 of your jobs wait already; at most 2 may"
    assert refused.retry_after_s is not None
    await job_of(front, "bob")
    await front.ask(CancelJob(job_id=first, owner="ann"))
    await job_of(front, "ann")


async def test_two_owners_may_use_one_idempotency_key(front: Front) -> None:
    assert await job_of(front, "ann", "k") == await job_of(front, "ann", "k")
    assert await job_of(front, "bob", "k") != await job_of(front, "ann", "k")


async def test_a_job_keeps_its_owner_over_a_restart(broker: BrokerProcess) -> None:
    async with Front(broker.config) as front:
        job_id = await job_of(front, "ann", "k")
    await broker.kill()
    await broker.start()
    async with Front(broker.config) as front:
        assert isinstance(await front.ask(GetJob(job_id=job_id, owner="bob")), Refused)
        assert isinstance(await front.ask(GetJob(job_id=job_id, owner="ann")), JobFound)
        assert await job_of(front, "ann", "k") == job_id
