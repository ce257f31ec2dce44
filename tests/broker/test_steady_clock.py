"""Times that clients see follow the system's clock; what the broker decides by never jumps."""

import asyncio
from pathlib import Path

import pytest

from broker.steady_clock import SteadyClock
from broker.wire.job import JobState
from broker.wire.job_view import JobView
from broker.wire.replies import Callback, CallbackTaken, JobFound, JobHistory, JobsListed
from tests.broker.driver import LIMIT_S, BrokerProcess, Front, broker_config

HOUR_S = 3600.0


class Clocks:
    """A system clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.set_by_s = 0.0

    def system(self) -> float:
        return 1000.0 + self.passed_s + self.set_by_s

    def steady(self) -> float:
        return 5.0 + self.passed_s


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def clock(clocks: Clocks) -> SteadyClock:
    return SteadyClock(clocks.system, clocks.steady)


def view(created_at: float, updated_at: float, expires_at: float | None = None) -> JobView:
    return JobView(job_id="a", created_at=created_at, updated_at=updated_at, expires_at=expires_at)


@pytest.mark.parametrize("set_by_s", [HOUR_S, -HOUR_S, 400 * 24 * HOUR_S])
def test_a_correction_moves_what_is_shown_and_not_what_is_decided_by(
    clocks: Clocks, clock: SteadyClock, set_by_s: float
) -> None:
    clocks.passed_s, clocks.set_by_s = 10.0, set_by_s
    clock.follow_system()
    assert clock() == 1010.0
    assert clock.shown(1002.0) == 1002.0 + set_by_s
    assert clock.shown(1009.0) - clock.shown(1002.0) == 7.0


def test_a_correction_of_a_correction_does_not_add_up(clocks: Clocks, clock: SteadyClock) -> None:
    for set_by_s in (HOUR_S, 0.0, 2 * HOUR_S):
        clocks.set_by_s = set_by_s
        clock.follow_system()
        assert clock.shown(1000.0) == 1000.0 + set_by_s


def test_a_slewed_clock_leaves_shown_times_as_they_are(clocks: Clocks, clock: SteadyClock) -> None:
    clocks.set_by_s = 0.9
    clock.follow_system()
    assert clock.shown(1000.0) == 1000.0


def test_times_of_earlier_lives_stay_and_no_job_ends_before_it_began(
    clocks: Clocks, clock: SteadyClock
) -> None:
    clocks.passed_s, clocks.set_by_s = 10.0, -HOUR_S
    clock.follow_system()
    assert clock.shown_view(view(10.0, 20.0, 30.0)) == view(10.0, 20.0, 30.0)
    spanning = clock.shown_view(view(999.0, 1005.0, 1105.0))
    assert spanning == view(1005.0 - HOUR_S, 1005.0 - HOUR_S, 1105.0 - HOUR_S)


def test_every_reply_with_times_shows_the_corrected_ones(
    clocks: Clocks, clock: SteadyClock
) -> None:
    job, moved = view(1001.0, 1002.0), view(4601.0, 4602.0)
    callback = Callback(
        job_id="a", url="u", owner=None, state=JobState.FAILED, ended_at=1002.0, tries=0
    )
    clocks.passed_s, clocks.set_by_s = 10.0, HOUR_S
    clock.follow_system()
    assert clock.shown_reply(JobFound(job=job)) == JobFound(job=moved)
    assert clock.shown_reply(JobHistory(jobs=[job])) == JobHistory(jobs=[moved])
    listed = JobsListed(jobs=[job], has_more=False)
    assert clock.shown_reply(listed) == JobsListed(jobs=[moved], has_more=False)
    taken = clock.shown_reply(CallbackTaken(callback=callback))
    assert isinstance(taken, CallbackTaken)
    assert taken.callback is not None
    assert taken.callback.ended_at == 4602.0


async def test_a_clock_that_is_corrected_under_a_running_broker_is_followed(tmp_path: Path) -> None:
    """Status and events once showed the wrong time until the next start."""
    state_dir, shift = tmp_path / "state", tmp_path / "shift"
    shift.write_text("-3600")
    config = broker_config(state_dir)
    broker = BrokerProcess(config, "tests.broker.broker_with_set_clock", str(shift))
    await broker.start()
    try:
        async with Front(config) as front:
            wrong = await front.get(await front.submit_ok())
            shift.write_text("0")
            async with asyncio.timeout(LIMIT_S):
                while (  # noqa: ASYNC110 (the correction sends no event)
                    right := await front.get(wrong.job_id)
                ).created_at == wrong.created_at:
                    await asyncio.sleep(0.05)
            assert right.created_at - wrong.created_at == pytest.approx(HOUR_S, abs=1.0)
            assert (await front.watch(wrong.job_id)).created_at == right.created_at
            later = await front.get(await front.submit_ok())
            assert 0 <= later.created_at - right.created_at < LIMIT_S
    finally:
        await broker.kill()
