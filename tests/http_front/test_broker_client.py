import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import zmq

from broker.wire.errors import ErrorCode
from broker.wire.replies import FrontReply, HealthFound, Refused
from broker.wire.requests import FrontRequest, GetHealth, GetJob, RemoveExpired
from http_front.broker_client import BrokerClient
from http_front.errors import FrontError
from tests.http_front.scripted_broker import ScriptedBroker


@pytest_asyncio.fixture
async def client(broker: ScriptedBroker) -> AsyncIterator[BrokerClient]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client = BrokerClient(context, broker.addresses.requests)
    yield client
    await client.close()
    context.term()


async def test_concurrent_requests_get_their_own_replies(
    client: BrokerClient, broker: ScriptedBroker
) -> None:
    def script(request: FrontRequest) -> FrontReply | None:
        if isinstance(request, GetJob):
            return Refused(code=ErrorCode.JOB_NOT_FOUND, message=request.job_id)
        return None

    broker.script = script

    async def ask(number: int) -> str:
        with pytest.raises(FrontError) as caught:
            await client.ask(GetJob(job_id=str(number)))
        return caught.value.message

    assert await asyncio.gather(*(ask(n) for n in range(500))) == [str(n) for n in range(500)]


async def test_a_request_without_a_reply_is_unavailable_after_the_limit(
    client: BrokerClient, broker: ScriptedBroker
) -> None:
    broker.silent = True
    with pytest.raises(FrontError) as caught:
        await client.ask(GetHealth(), limit_s=0.2)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert caught.value.retry_after_s is not None
    broker.silent = False
    assert isinstance(await client.ask(GetHealth()), HealthFound)


async def test_a_request_is_sent_again_until_there_is_a_reply(
    client: BrokerClient, broker: ScriptedBroker
) -> None:
    broker.silent = True
    asking = asyncio.create_task(client.ask(RemoveExpired()))
    while len(broker.asked) < 2:
        await asyncio.wait([asking], timeout=0.05)
    broker.silent = False
    await asking


async def test_a_broker_that_starts_late_gets_the_request() -> None:
    with tempfile.TemporaryDirectory(prefix="wan-") as run_dir:
        broker = ScriptedBroker(Path(run_dir))
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        client = BrokerClient(context, broker.addresses.requests)
        asking = asyncio.create_task(client.ask(GetHealth()))
        async with broker:
            assert isinstance(await asking, HealthFound)
            await client.close()
        context.term()


async def test_an_unreadable_reply_is_ignored(client: BrokerClient, broker: ScriptedBroker) -> None:
    await client.ask(GetHealth())
    for parts in ([b""], [b"0"], [b"0", b"1", b"\xc1"], [b"0", b"9", b""], [b""] * 100):
        await broker.send_to_front(*parts)
    assert isinstance(await client.ask(GetHealth()), HealthFound)
