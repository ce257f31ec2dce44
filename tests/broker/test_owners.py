"""Jobs belong to owners, which the HTTP API knows by their API keys."""

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


async def submit_ok(front: Front, owner: str | None, key: str | None = None) -> str:
    reply = await submit(front, owner, key)
    assert isinstance(reply, JobFound), reply
    return reply.job.job_id


async def test_a_job_of_another_owner_gets_the_same_replies_as_an_unknown_one(front: Front) -> None:
    foreign, unknown = await submit_ok(front, "bob"), secrets.token_hex(16)
    replies: set[Refused] = set()
    for name in (foreign, unknown):
        for request in (
            GetJob(job_id=name, owner="ann"),
            CancelJob(job_id=name, owner="ann"),
            WatchJob(job_id=name, after_seq=0, owner="ann"),
        ):
            reply = await front.ask(request)
            assert isinstance(reply, Refused)
            assert reply.code is ErrorCode.JOB_NOT_FOUND
            replies.add(reply)
    assert len(replies) == 1
    assert (await front.get(foreign)).state is JobState.IN_QUEUE


async def test_an_owner_sees_and_cancels_its_own_jobs(front: Front) -> None:
    job_id = await submit_ok(front, "ann")
    await submit_ok(front, "bob")
    assert isinstance(await front.ask(GetJob(job_id=job_id, owner="ann")), JobFound)
    watched = await front.ask(WatchJob(job_id=job_id, after_seq=0, owner="ann"))
    assert isinstance(watched, JobHistory)
    listed = await front.ask(ListJobs(owner="ann"))
    assert isinstance(listed, JobsListed)
    assert [job.job_id for job in listed.jobs] == [job_id]
    ended = await front.ask(CancelJob(job_id=job_id, owner="ann"))
    assert isinstance(ended, JobFound)
    assert ended.job.state is JobState.CANCELLED


async def test_an_owner_may_not_exceed_its_share_of_the_queue(front: Front) -> None:
    first, _ = await submit_ok(front, "ann"), await submit_ok(front, "ann")
    refused = await submit(front, "ann")
    assert isinstance(refused, Refused)
    assert refused.code is ErrorCode.QUEUE_FULL
    assert refused.message == "2 of your jobs wait already; at most 2 may"
    assert refused.retry_after_s is not None
    await submit_ok(front, "bob")
    await front.ask(CancelJob(job_id=first, owner="ann"))
    await submit_ok(front, "ann")


async def test_two_owners_may_use_the_same_idempotency_key(front: Front) -> None:
    assert await submit_ok(front, "ann", "k") == await submit_ok(front, "ann", "k")
    assert await submit_ok(front, "bob", "k") != await submit_ok(front, "ann", "k")


async def test_a_job_keeps_its_owner_and_key_after_a_restart(broker: BrokerProcess) -> None:
    async with Front(broker.config) as front:
        job_id = await submit_ok(front, "ann", "k")
    await broker.kill()
    await broker.start()
    async with Front(broker.config) as front:
        assert isinstance(await front.ask(GetJob(job_id=job_id, owner="bob")), Refused)
        assert isinstance(await front.ask(GetJob(job_id=job_id, owner="ann")), JobFound)
        assert await submit_ok(front, "ann", "k") == job_id
