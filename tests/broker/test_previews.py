"""The broker relays previews to subscribers while their lease is in force."""

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
CURRENT, STALE = b"a preview of the lease in force", b"a preview of another lease"


async def test_a_preview_whose_lease_is_not_in_force_is_dropped(tmp_path: Path) -> None:
    config = broker_config(tmp_path)
    stub = StubConfig(addresses=config.addresses, videos_dir=str(tmp_path / "videos"))
    async with running_broker(config), StubGroup(stub) as group, Front(config) as front:
        group.hold.clear()
        cancelled, lease = await cancel_one_and_run_another(group, front)
        stale = [
            cancelled,
            structs.replace(lease, attempt=lease.attempt + 1),
            structs.replace(lease, epoch=lease.epoch - 1),
            structs.replace(lease, group="another"),
        ]
        previews = [*((other, STALE) for other in stale), (lease, CURRENT)]
        for job_id in (cancelled.job_id, lease.job_id):
            front.events.setsockopt(zmq.SUBSCRIBE, preview_topic(job_id))
        publishing = asyncio.create_task(publish_previews(group, previews))
        try:
            assert set(await receive_previews(front, 10)) == {CURRENT}
        finally:
            publishing.cancel()


async def cancel_one_and_run_another(group: StubGroup, front: Front) -> tuple[Lease, Lease]:
    """Cancel a running job and start another; return both leases."""
    first = await front.submit_ok()
    cancelled = (await group.heard(RunJob)).lease
    await front.ask(CancelJob(job_id=first))
    await front.submit_ok()
    return cancelled, (await group.heard(RunJob, count=2)).lease


async def publish_previews(group: StubGroup, previews: list[tuple[Lease, bytes]]) -> None:
    """Publish previews in turn, forever: a subscription takes time to reach the broker."""
    while True:
        for lease, jpeg in previews:
            await group.preview(lease, jpeg)
        await asyncio.sleep(0.01)


async def receive_previews(front: Front, count: int) -> list[bytes]:
    async with asyncio.timeout(LIMIT_S):
        messages = [await front.events.recv_multipart() for _ in range(count)]
    return [job_previews.decode(parts).jpeg for _, *parts in messages]
