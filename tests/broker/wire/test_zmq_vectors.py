"""The bad messages of `bad_inputs.json`, sent to the sockets of a running server."""

import asyncio
import random
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import zmq
import zmq.asyncio

from broker.wire.codec import PROTOCOL_VERSION
from broker.wire.group_reports import GroupReady, JobFinished, group_reports
from broker.wire.group_shape import GroupShape
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import StepDone, rank_messages
from broker.wire.replies import FrontReply, HealthFound, front_replies
from broker.wire.requests import GetHealth, front_requests
from broker.wire.sockets import Addresses
from tests.chaos.server import ChaosServer, chaos_server
from tests.fuzz.test_messages import DIRECTIONS
from tests.http_front.vectors import Case, cases
from tests.running_server import Caller, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT_S = 20.0
NPROC = 2


@dataclass
class Target:
    """A running server, a client of it, and a hostile peer at each socket of its broker."""

    server: ChaosServer
    caller: Caller
    sockets: dict[str, zmq.asyncio.Socket]

    async def send(self, *parts: bytes) -> None:
        for name in self.sockets:
            await self.send_to(name, *parts)

    async def send_to(self, name: str, *parts: bytes) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self.sockets[name].send_multipart(parts)

    async def ask(self) -> FrontReply:
        """Ask for the health; the reply comes after all earlier messages were handled."""
        request = [b"correlation", *front_requests.encode(GetHealth())]
        requests = self.sockets["requests"]
        async with asyncio.timeout(LIMIT_S):
            await requests.send_multipart(request)
            while True:
                correlation, *parts = await requests.recv_multipart()
                if correlation == b"correlation":
                    return front_replies.decode(parts)

    def processes(self) -> list[int | None]:
        life = self.server.life
        parts = [self.server.pid_of(part) for part in ("broker", "http_front")]
        return [*parts, *sorted(life.pids("stub_ranks"))]

    async def make_a_video(self) -> None:
        await self.caller.wait_for(await self.caller.submit(), status="Succeed", attempt=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target() -> AsyncIterator[Target]:
    # Not under tmp_path: its names are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as folder:
        async with (
            chaos_server(Path(folder), nproc=NPROC, step_s=0.001) as server,
            aiohttp.ClientSession(server.life.url) as session,
            hostile_peers(server) as sockets,
        ):
            target = Target(server, Caller(session), sockets)
            before = target.processes()
            yield target
            await target.make_a_video()
            assert target.processes() == before
            assert "Traceback" not in server.life.log()


@asynccontextmanager
async def hostile_peers(server: ChaosServer) -> AsyncIterator[dict[str, zmq.asyncio.Socket]]:
    """Connect a socket to each of the broker's."""
    addresses = Addresses.in_folder(server.state_dir / "run")
    kinds = {"requests": zmq.DEALER, "groups": zmq.DEALER, "beats": zmq.XPUB, "events": zmq.XSUB}
    context = zmq.asyncio.Context()
    try:
        sockets = {name: context.socket(kind) for name, kind in kinds.items()}
        for name, socket in sockets.items():
            socket.connect(getattr(addresses, name))
        async with asyncio.timeout(LIMIT_S):
            await sockets["beats"].recv_multipart()  # the broker's subscription: it listens now
        yield sockets
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("version", [b"0", b"3"])
async def test_a_peer_of_another_version_is_logged_with_both_versions(
    target: Target, version: bytes
) -> None:
    """This is zmq-112-version. It comes first, before the log of dropped messages is limited."""
    shape = GroupShape(world_size=1, num_heads=8)
    ready = GroupReady(group="other", epoch=1, shape=shape, device="cpu")
    await target.send_to("groups", version, group_reports.encode(ready)[1])
    line = await target.server.life.wait_until_logged(f"starting with {version!r}", LIMIT_S)
    assert f"expected version {PROTOCOL_VERSION!r}" in line


@pytest.mark.parametrize("case", cases("zmq", "zmq-parts-base64"), ids=lambda case: case.id)
async def test_a_bad_message_is_dropped_and_the_next_good_one_is_answered(
    target: Target, case: Case
) -> None:
    parts = [b64decode(part) for part in case.input.split(",")]
    await target.send(*parts)
    await target.send(PROTOCOL_VERSION, *parts)
    await target.send(b"c", PROTOCOL_VERSION, parts[0])
    reply = await target.ask()
    assert isinstance(reply, HealthFound)
    assert reply.ready


NESTED = [b"\x91" * 200_000, b"\x81\xa1a" * 200_000, b"\x81\xa4type" * 100_000]
PICKLE = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
BAD_TEXT = b"\x82\xa4type\xa6GetJob\xa6job_id\xa2\xff\xfe"


@pytest.mark.parametrize("body", [*NESTED, PICKLE, BAD_TEXT, b"", b"\x81\xa4type\xa4None"])
async def test_nested_pickled_and_undecodable_bodies_are_dropped(
    target: Target, body: bytes
) -> None:
    await target.send(PROTOCOL_VERSION, body)
    await target.send(b"c", PROTOCOL_VERSION, body)
    assert isinstance(await target.ask(), HealthFound)


@pytest.mark.parametrize("topic", [b"", b"\xff" * 200, b"\x00", b"\x91" * 5000])
async def test_malformed_subscriptions_are_ignored(target: Target, topic: bytes) -> None:
    for sign in (b"\x01", b"\x00", b"\x02"):
        await target.send_to("events", sign + topic)
    assert isinstance(await target.ask(), HealthFound)


async def test_ten_thousand_random_messages_do_not_fill_the_log(target: Target) -> None:
    """This is zmq-105-many."""
    noise, size = random.Random(1), len(target.server.life.log())
    for number in range(10_000):
        parts = [noise.randbytes(noise.randrange(201)) for _ in range(noise.randrange(1, 9))]
        await target.send(*parts)
        if number % 500 == 0:
            await target.ask()
    await target.ask()
    assert len(target.server.life.log()) - size < 1_000_000
    await target.make_a_video()


async def test_a_message_of_two_megabytes_costs_its_sender_the_connection(target: Target) -> None:
    """This is zmq-108."""
    pid = target.server.pid_of("broker")
    before = resident_bytes(pid)
    for _ in range(5):
        await target.send(bytes(2 << 20))
    await target.make_a_video()
    await target.ask()  # over a new connection
    assert resident_bytes(pid) - before < 4 << 20


def resident_bytes(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def test_messages_of_an_unknown_type_are_dropped(target: Target) -> None:
    """This is zmq-112-type."""
    kinds: list[Any] = ["NOPE", "", None, 1, [], "None"]
    for codec, message in DIRECTIONS:
        fields: dict[str, Any] = msgspec.msgpack.decode(codec.encode(message)[1])
        for kind in kinds:
            body = msgspec.msgpack.encode(fields | {"type": kind})
            await target.send(PROTOCOL_VERSION, body)
            await target.send(b"c", PROTOCOL_VERSION, body)
    assert isinstance(await target.ask(), HealthFound)


@pytest_asyncio.fixture(loop_scope="module")
async def lease(target: Target) -> AsyncIterator[Lease]:
    """The lease of a run that goes no further."""
    target.server.faults.set("denoise", "hold")
    job_id = await target.caller.submit()
    await until(lambda: target.server.faults.is_reached("denoise"), LIMIT_S)
    await target.caller.wait_for(job_id, status="InProgress", step=1)  # its last report
    started = [e for e in target.server.ledger.read() if (e.what, e.job_id) == ("started", job_id)]
    yield Lease(
        group=started[-1].group,
        epoch=started[-1].epoch,
        job_id=job_id,
        attempt=started[-1].attempt,
    )
    assert (await target.caller.post("/video/cancel", job_id))["status"] == "Cancelled"


def other_leases(lease: Lease) -> list[Lease]:
    changes: list[dict[str, Any]] = [
        {"epoch": lease.epoch - 1},
        {"epoch": lease.epoch + 1},
        {"attempt": lease.attempt - 1},
        {"attempt": lease.attempt + 1},
        {"group": "g9"},
        {"job_id": "0" * 32},
    ]
    return [msgspec.structs.replace(lease, **change) for change in changes]


async def test_reports_with_another_lease_change_nothing(target: Target, lease: Lease) -> None:
    """These are zmq-113-epoch and zmq-113-attempt."""
    before = await target.caller.status(lease.job_id)
    for other in other_leases(lease):
        finished = JobFinished(lease=other, video=f"{lease.job_id}.mp4")
        await target.send_to("groups", *group_reports.encode(finished))
        step = StepDone(lease=other, stage=Stage.DENOISE, step=5, num_steps=6)
        await target.send_to("beats", *rank_messages.encode(step))
    await wait_until_handled(target)
    assert without_time(await target.caller.status(lease.job_id)) == without_time(before)


async def test_progress_never_goes_back_and_stays_below_one_until_the_end(
    target: Target, lease: Lease
) -> None:
    """These are zmq-113-repeat and zmq-113-skip."""
    seen = [(await target.caller.status(lease.job_id))["progress"]]
    steps = [(4, 6), (4, 6), (2, 6), (0, 6), (5, 6), (31, 30), (-1, 6), (1, 0), (0, 0), (2**62, 1)]
    for step, num_steps in steps:
        report = StepDone(lease=lease, stage=Stage.DENOISE, step=step, num_steps=num_steps)
        await target.send_to("beats", *rank_messages.encode(report))
        for bad in (2.5, float("nan"), float("inf"), "4", None, 2**63):
            fields = msgspec.msgpack.decode(rank_messages.encode(report)[1]) | {"step": bad}
            body = msgspec.msgpack.encode(fields)
            await target.send_to("beats", PROTOCOL_VERSION, body)
        await wait_until_handled(target)
        seen.append((await target.caller.status(lease.job_id))["progress"])
    assert seen == sorted(seen)
    assert seen[-1] <= 0.99
    assert (await target.caller.status(lease.job_id))["status"] == "InProgress"


async def wait_until_handled(target: Target) -> None:
    """Wait until the broker, which reads its sockets in turn, has handled all messages so far."""
    for _ in range(20):
        await target.ask()


def without_time(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in ("eta_s", "stage_s")}
