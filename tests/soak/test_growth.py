"""The judge of the soak fails on a leak and passes noise, in short runs and in long ones."""

import random

import pytest

from tests.soak.growth import DESCRIPTORS, MB, MEMORY, RANK_MEMORY, Series, judge

MINUTE_S = 60.0
RUN_S = {"10 minutes": 600.0, "2 hours": 7200.0}


def memory(run_s: float, leak_per_hour: float) -> Series:
    """Return 40 MB with an allocator's noise, a warm-up of 15 MB, and a leak."""
    noise = random.Random(7)
    times = [at_s * run_s / 240 for at_s in range(241)]
    return [
        (
            at_s,
            40 * MB
            + 15 * MB * min(1.0, 3 * at_s / run_s)
            + leak_per_hour * at_s / 3600
            + noise.gauss(0, 0.2 * MB)
            + noise.choice((0, 0, 0, 2 * MB)),
        )
        for at_s in times
    ]


@pytest.mark.parametrize("run_s", RUN_S.values(), ids=RUN_S)
def test_a_flat_process_passes_for_all_its_noise_and_its_warm_up(run_s: float) -> None:
    growth = judge(memory(run_s, 0.0), run_s, MEMORY)
    assert growth is not None
    assert not growth.is_leak


@pytest.mark.parametrize("run_s", RUN_S.values(), ids=RUN_S)
def test_memory_for_each_video_is_no_leak(run_s: float) -> None:
    """Ranks that were busier in the end were taken to leak 300 MB an hour."""
    chance = random.Random(5)
    times = [at_s * run_s / 240 for at_s in range(241)]
    series = [(at_s, (140 + chance.gauss(0, 1)) * MB) for at_s in times]
    series = [
        (at_s, value + (chance.random() < 0.8 * at_s / run_s) * chance.uniform(20, 100) * MB)
        for at_s, value in series
    ]
    growth = judge(series, run_s, RANK_MEMORY)
    assert growth is not None
    assert not growth.is_leak


@pytest.mark.parametrize(
    ("run_s", "leak_per_hour"), [(7200.0, 1.5 * MB), (600.0, 18 * MB)], ids=RUN_S
)
def test_a_leak_fails(run_s: float, leak_per_hour: float) -> None:
    """In 10 minutes, 18 MB/h is 300 KB a minute: 4 KB a job."""
    growth = judge(memory(run_s, leak_per_hour), run_s, MEMORY)
    assert growth is not None
    assert growth.is_leak
    assert growth.per_hour == pytest.approx(leak_per_hour, rel=0.4)


def test_a_descriptor_lost_each_minute_fails_within_twenty_minutes() -> None:
    series = [(at_s, 30.0 + at_s // MINUTE_S) for at_s in range(0, 1201, 10)]
    growth = judge(series, 1200.0, DESCRIPTORS)
    assert growth is not None
    assert growth.is_leak


@pytest.mark.parametrize("life", [range(3000, 7200, 30), range(0, 6000, 30)])
def test_a_process_that_began_late_or_ended_early_is_not_judged(life: range) -> None:
    series = [(at_s, 40 * MB) for at_s in life]
    assert judge(series, 7200.0, MEMORY) is None
