import asyncio
from typing import Any

import msgspec

from broker.wire.job import JobState, Stage
from broker.wire.job_view import JobView
from broker.wire.requests import GetJob
from http_front.live.status_cache import FRESH_S, StatusCache
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served

LIMIT_S = 10.0
JOB_ID = "a" * 32


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def view(seq: int, state: JobState = JobState.IN_PROGRESS, **more: Any) -> JobView:
    return JobView(
        job_id=JOB_ID, seq=seq, state=state, progress=0.5, created_at=1.0, updated_at=1.0, **more
    )


def test_a_running_job_is_cached_with_its_latest_change_for_a_short_time() -> None:
    clock = Clock()
    cache = StatusCache(clock)
    for seq in (2, 4, 3):
        cache.update(view(seq, eta_s=9.0))
    clock.now_s += 1.5
    found = cache.find(JOB_ID, None)
    assert found is not None
    assert (found.seq, found.eta_s) == (4, 7.5)
    clock.now_s += FRESH_S
    assert cache.find(JOB_ID, None) is None


def test_a_late_event_does_not_make_an_ended_job_look_running() -> None:
    cache = StatusCache(Clock())
    cache.update(view(3))
    cache.update(view(5, JobState.CANCELLED))
    cache.update(view(4))
    assert cache.find(JOB_ID, None) is None
    cache.update(view(5 + 1))
    assert cache.find(JOB_ID, None) is not None, "a change with a higher seq replaces the entry"


def test_a_deleted_job_is_not_found() -> None:
    cache = StatusCache(Clock())
    cache.update(view(3))
    cache.forget(JOB_ID)
    cache.update(view(4))
    assert cache.find(JOB_ID, None) is None


def test_another_owners_job_is_not_found() -> None:
    cache = StatusCache(Clock())
    cache.update(view(3, owner="anna"))
    assert cache.find(JOB_ID, "anna") is not None
    assert cache.find(JOB_ID, None) is not None
    assert cache.find(JOB_ID, "bert") is None


def test_old_entries_are_dropped() -> None:
    clock = Clock()
    cache = StatusCache(clock)
    for number in range(1000):
        clock.now_s += 0.1
        cache.update(msgspec.structs.replace(view(1), job_id=f"{number:032x}"))
    assert len(cache) <= FRESH_S / 0.1 + 1


async def status(front: Served, job_id: str) -> Any:
    return (await front.post("/video/status", {"requestId": job_id}))[1]


async def test_polling_a_running_job_does_not_reach_the_broker(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    await broker.change(job_id, state=JobState.IN_PROGRESS, stage=Stage.DENOISE, step=1)
    assert (await status(front, job_id))["step"] == 1
    await broker.change(job_id, step=2)
    async with asyncio.timeout(LIMIT_S):
        while (await status(front, job_id))["step"] != 2:
            pass
    asked = [request for request in broker.asked if isinstance(request, GetJob)]
    assert len(asked) <= 1  # none if the first event arrived before the first request


async def test_after_a_cancel_the_status_is_cancelled_even_before_the_event_arrives(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    await broker.change(job_id, state=JobState.IN_PROGRESS, step=1)
    assert (await status(front, job_id))["status"] == "InProgress"
    assert (await front.post("/video/cancel", {"requestId": job_id}))[0] == 200
    assert (await status(front, job_id))["status"] == "Cancelled"


async def test_after_a_delete_the_job_is_not_found_even_before_the_event_arrives(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    await broker.change(job_id, state=JobState.IN_PROGRESS, step=1)
    assert (await status(front, job_id))["status"] == "InProgress"
    assert (await front.post("/video/delete", {"requestId": job_id}))[0] == 200
    assert (await front.post("/video/status", {"requestId": job_id}))[0] == 404
