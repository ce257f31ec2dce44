"""Whatever bytes arrive, no loop of the broker ends and no job changes."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from broker.config import BrokerConfig
from broker.job import JobState
from broker.protocol import RunJob
from broker.sockets import MAX_MESSAGE_BYTES, connect_dealer, connect_pub, connect_sub
from tests.broker.driver import LIMIT_S, Front, broker_config, running_broker
from tests.stub_group import StubConfig, StubGroup

LENGTH_BOMBS = [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
NESTED = [b"\x91" * 200_000, b"\x81\xa1a" * 200_000, b"\x81\xa4type" * 100_000]
PICKLE = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
BAD_TEXT = b"\x82\xa4type\xa6GetJob\xa6job_id\xa2\xff\xfe"


def bad_messages() -> Iterator[list[bytes]]:
    """Yield parts that are no message, from plausible to absurd."""
    yield [b""]
    yield [b"1"]
    yield [b"2", b"\x80"]
    yield [b"", b"", b"", b"", b""]
    for body in (*LENGTH_BOMBS, *NESTED, PICKLE, BAD_TEXT, b"", b"\xc1", b"\x81\xa4type\xa4None"):
        yield [b"1", body]
        yield [b"c", b"1", body]
    noise = random.Random(1)
    for _ in range(300):
        count = noise.randrange(1, 6)
        yield [noise.randbytes(noise.randrange(0, 64)) for _ in range(count)]


async def send_all(socket: zmq.asyncio.Socket) -> None:
    async with asyncio.timeout(LIMIT_S):
        for parts in bad_messages():
            await socket.send_multipart(parts)


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    return broker_config(tmp_path)


async def test_no_bytes_on_any_socket_stop_the_broker_or_change_a_job(
    config: BrokerConfig,
) -> None:
    addresses = config.addresses
    stub = StubConfig(addresses=addresses, videos_dir=str(Path(config.state_dir) / "videos"))
    async with running_broker(config), StubGroup(stub) as group, Front(config) as front:
        group.hold.clear()
        job_id = await front.submit_ok()
        await group.heard(RunJob)
        before = await front.watch(job_id)
        while before.stage is None:
            before = await front.event()
        with zmq.asyncio.Context() as context:
            requests = connect_dealer(context.socket(zmq.DEALER), addresses.requests, "x")
            groups = connect_dealer(context.socket(zmq.DEALER), addresses.groups, "x")
            beats = connect_pub(context.socket(zmq.PUB), addresses.beats)
            events = connect_sub(context.socket(zmq.SUB), addresses.events)
            for socket in (requests, groups, beats):
                await send_all(socket)
            for topic in (b"", b"\xff" * 200, b"\x00", b"\x91" * 5000):
                events.setsockopt(zmq.SUBSCRIBE, topic)
            for socket in (requests, groups, beats, events):
                socket.close(linger=2000)
        assert (await front.get(job_id)).seq == before.seq
        group.hold.set()
        assert (await front.until(job_id, JobState.SUCCEED)).attempt == 1


async def test_a_message_beyond_the_limit_cuts_off_its_sender_only(config: BrokerConfig) -> None:
    async with running_broker(config), Front(config) as front:
        with zmq.asyncio.Context() as context:
            requests = connect_dealer(context.socket(zmq.DEALER), config.addresses.requests, "x")
            await requests.send_multipart([b"c", b"1", bytes(MAX_MESSAGE_BYTES + 1)])
            await asyncio.gather(*(front.submit() for _ in range(3)))
            requests.close(linger=0)
        await front.submit_ok()
