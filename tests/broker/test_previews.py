"""Previews pass through the broker to whoever watches, as long as their run is in force."""

import asyncio
from pathlib import Path

import zmq
from msgspec import structs

from broker.wire.events import job_previews, preview_topic
from broker.wire.group_commands import RunJob
from broker.wire.job_view import Lease
from broker.wire.requests import CancelJob
from tests.broker.driver import Front, broker_config, running_broker
from tests.stub_group import StubConfig, StubGroup

LIMIT_S = 20.0
GOOD, STALE = b"of the run that is in force", b"of another run"


async def test_a_preview_of_a_run_that_is_not_in_force_is_dropped(tmp_path: Path) -> None:
    """Seen to fail with every preview relayed, whatever its lease."""
    config = broker_config(tmp_path)
    stub = StubConfig(addresses=config.addresses, videos_dir=str(tmp_path / "videos"))
    async with running_broker(config), StubGroup(stub) as group, Front(config) as front:
        group.hold.clear()
        cancelled, lease = await run_two(group, front)
        stale = [
            cancelled,
            structs.replace(lease, attempt=lease.attempt + 1),
            structs.replace(lease, epoch=lease.epoch - 1),
            structs.replace(lease, group="another"),
        ]
        previews = [*((one, STALE) for one in stale), (lease, GOOD)]
        for one in (cancelled, lease):
            front.events.setsockopt(zmq.SUBSCRIBE, preview_topic(one.job_id))
        showing = asyncio.create_task(show(group, previews))
        try:
            assert set(await arrivals(front, 10)) == {GOOD}
        finally:
            showing.cancel()


async def run_two(group: StubGroup, front: Front) -> tuple[Lease, Lease]:
    """Run a job, cancel it and run another; return the leases of both."""
    first = await front.submit_ok()
    cancelled = (await group.heard(RunJob)).lease
    await front.ask(CancelJob(job_id=first))
    await front.submit_ok()
    return cancelled, (await group.heard(RunJob, count=2)).lease


async def show(group: StubGroup, previews: list[tuple[Lease, bytes]]) -> None:
    """Publish previews in turn, for ever: a subscription takes its time to get around."""
    while True:
        for lease, jpeg in previews:
            await group.preview(lease, jpeg)
        await asyncio.sleep(0.01)


async def arrivals(front: Front, count: int) -> list[bytes]:
    async with asyncio.timeout(LIMIT_S):
        messages = [await front.events.recv_multipart() for _ in range(count)]
    return [job_previews.decode(parts).jpeg for _, *parts in messages]
