"""The metrics, and that the dashboard and the alerts use only existing ones."""

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.wire.job import JobState, Stage
from broker.wire.job_view import JobView
from broker.wire.replies import GroupView, HealthFound, RankView
from http_front.metrics.metrics import Metrics
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served

MONITORING = Path(__file__).resolve().parents[3] / "docs" / "monitoring"
LIMIT_S = 10.0


def view(seq: int, state: JobState, updated_at: float = 10.0, **more: Any) -> JobView:
    return JobView(
        job_id="a" * 32,
        seq=seq,
        state=state,
        progress=0.5,
        created_at=10.0,
        updated_at=updated_at,
        **more,
    )


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_repeated_end_of_a_job_counts_once() -> None:
    metrics = Metrics()
    ended = view(2, JobState.SUCCEED, 40.0, video="x.mp4", stage_s={"queue": 4.0, "denoise": 20.0})
    for change in (view(1, JobState.IN_QUEUE), ended, ended):
        metrics.record(change)
    assert value(metrics, "wan_jobs_total", status="Succeed") == 1.0
    assert value(metrics, "wan_job_duration_seconds_sum", status="Succeed") == 30.0
    assert value(metrics, "wan_job_queue_seconds_sum") == 4.0
    assert value(metrics, "wan_stage_seconds_sum", stage="denoise") == 20.0
    assert value(metrics, "wan_stage_seconds_count", stage="save") is None


def test_a_step_is_timed_between_two_changes_of_one_attempt() -> None:
    metrics = Metrics()
    running: dict[str, Any] = {"stage": Stage.DENOISE, "attempt": 1}
    metrics.record(view(1, JobState.IN_PROGRESS, 10.0, step=1, **running))
    metrics.record(view(2, JobState.IN_PROGRESS, 13.0, step=3, **running))
    metrics.record(view(2, JobState.IN_PROGRESS, 13.0, step=3, **running))
    metrics.record(view(3, JobState.IN_PROGRESS, 99.0, step=4, stage=Stage.DENOISE, attempt=2))
    assert value(metrics, "wan_step_seconds_count") == 1.0
    assert value(metrics, "wan_step_seconds_sum") == 1.5


def test_changes_within_a_step_do_not_shorten_its_time() -> None:
    metrics = Metrics()
    running: dict[str, Any] = {"stage": Stage.DENOISE, "attempt": 1}
    for seq, (at_s, step) in enumerate([(10, 0), (20, 1), (25, 1), (30, 1), (40, 2), (41, 2)]):
        metrics.record(view(seq + 1, JobState.IN_PROGRESS, float(at_s), step=step, **running))
    assert value(metrics, "wan_step_seconds_count") == 1.0
    assert value(metrics, "wan_step_seconds_sum") == 20.0


def rank(number: int, beat_age_s: float) -> RankView:
    return RankView(
        rank=number, pid=1, device="cpu", stage=Stage.IDLE, step=0, memory_bytes=7,
        beat_age_s=beat_age_s,
    )  # fmt: skip


def group_health() -> HealthFound:
    group = GroupView(
        group="g0", epoch=1, ready=True, restarts=2, job_id=None, ranks=[rank(0, 0.5), rank(1, 9.0)]
    )
    return HealthFound(ready=True, draining=False, queued=3, running=1, groups=[group])


async def exposed(front: Served) -> str:
    async with front.session.get(front.url + "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return await response.text()


def test_a_group_that_is_gone_leaves_no_metric() -> None:
    """Groups of batch jobs have new names each time; their metrics would pile up."""
    metrics = Metrics()
    metrics.expose(group_health())
    text = metrics.expose(msgspec.structs.replace(group_health(), groups=[])).decode()
    assert 'group="g0"' not in text


async def test_gauges_show_the_current_state(front: Served, broker: ScriptedBroker) -> None:
    broker.health = group_health()
    text = await exposed(front)
    for line in (
        "wan_broker_up 1.0",
        "wan_jobs_queued 3.0",
        "wan_ranks_alive 1.0",
        'wan_group_restarts{group="g0"} 2.0',
        'wan_device_memory_bytes{group="g0",rank="1"} 7.0',
    ):
        assert line in text.splitlines()


async def test_ended_jobs_and_requests_are_counted(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    await front.post("/video/status", {"requestId": "unknown"})
    await broker.publish(broker.history[job_id][-1])
    await broker.change(job_id, state=JobState.CANCELLED)
    async with asyncio.timeout(LIMIT_S):
        while 'wan_jobs_total{status="Cancelled"} 1.0' not in await exposed(front):
            pass
    text = await exposed(front)
    assert 'wan_http_requests_total{code="404",route="/video/status"} 1.0' in text
    assert job_id not in text


async def test_metrics_are_served_while_the_broker_does_not_reply(
    front: Served, broker: ScriptedBroker
) -> None:
    broker.silent = True
    text = await exposed(front)
    assert "wan_broker_up 0.0" in text.splitlines()


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "alerts.yaml"])
async def test_every_metric_in_use_exists(front: Served, broker: ScriptedBroker, name: str) -> None:
    broker.health = group_health()
    asked = set(re.findall(r"wan_[a-z_]+", (MONITORING / name).read_text()))
    assert asked
    text = await exposed(front)
    described = dict(re.findall(r"# TYPE (wan_[a-z_]+) (\w+)", text))
    exist = set(described) | {
        f"{metric}_{ending}"
        for metric, kind in described.items()
        if kind == "histogram"
        for ending in ("bucket", "sum", "count")
    }
    assert asked <= exist
