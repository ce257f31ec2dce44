"""Many groups in small: they die and vanish, and no job is lost or run twice."""

from pathlib import Path

from tests.bench.many_groups.load import LoadSettings, measure

SMALL = LoadSettings(
    num_groups=50,
    num_jobs=2_000,
    finished_per_s=25.0,
    lost_per_minute=1.2,
    lost_s=3.0,
    join_s=1.0,
    measured_s=8.0,
    num_processes=1,
)


async def test_no_job_is_lost_or_run_twice_while_groups_die_and_vanish(
    tmp_path: Path,
) -> None:
    figures, broken = await measure(SMALL, tmp_path)
    assert broken == []
    assert figures["jobs finished"] >= 100
    assert figures["groups gone"] >= 2
    assert figures["groups silent"] >= 2
