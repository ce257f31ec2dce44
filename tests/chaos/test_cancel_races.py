"""Cancels race the completion of their jobs: an answer `Cancelled` is final."""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from broker.config import BrokerConfig
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import JobFound, Refused
from broker.wire.requests import CancelJob
from tests.broker.driver import Front, broker_config, running_broker
from tests.stub_group import FAKE_VIDEO, StubConfig, StubGroup

NUM_RACES = 1000
NUM_GROUPS = 4
LONGEST_WAIT_S = 0.03


async def race(front: Front, delays: random.Random) -> tuple[str, bool]:
    """Cancel a job after a random delay; return its id and whether the cancel was in time."""
    job_id = await front.submit_ok()
    # A random moment; there is no event to await.
    await asyncio.sleep(delays.uniform(0.0, LONGEST_WAIT_S))
    reply = await front.ask(CancelJob(job_id=job_id))
    if isinstance(reply, Refused):
        assert reply.code is ErrorCode.JOB_FINISHED
        return job_id, False
    assert isinstance(reply, JobFound)
    assert reply.job.state is JobState.CANCELLED
    return job_id, True


async def race_on(config: BrokerConfig, number: int) -> dict[str, bool]:
    """Run races one after the other, on a connection of its own."""
    delays = random.Random(number)
    async with Front(config) as front:
        races = [await race(front, delays) for _ in range(NUM_RACES // NUM_GROUPS)]
        for job_id, is_cancelled in races:
            expected = JobState.CANCELLED if is_cancelled else JobState.SUCCEED
            assert (await front.get(job_id)).state is expected
    return dict(races)


async def test_a_cancelled_job_never_succeeds(tmp_path: Path) -> None:
    config = broker_config(tmp_path)
    videos = tmp_path / "videos"
    cancelled: dict[str, bool] = {}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_broker(config))
        for number in range(NUM_GROUPS):
            stub = StubConfig(addresses=config.addresses, videos_dir=str(videos), num_steps=2)
            quick = msgspec.structs.replace(stub, group=f"g{number}", step_s=0.001)
            await stack.enter_async_context(StubGroup(quick))
        for part in await asyncio.gather(*(race_on(config, n) for n in range(NUM_GROUPS))):
            cancelled |= part
        async with Front(config) as front:
            await front.until_health(lambda health: health.running == 0)
    assert len(cancelled) == NUM_RACES
    assert NUM_RACES // 10 < sum(cancelled.values()) < NUM_RACES - NUM_RACES // 10
    written = {path.stem: path.read_bytes() for path in videos.glob("*.mp4")}
    assert written == {job_id: FAKE_VIDEO for job_id in cancelled if not cancelled[job_id]}
