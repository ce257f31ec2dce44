import asyncio

from broker.wire.job import Stage
from broker.wire.replies import GroupView, HealthFound, RankView
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served


async def test_health_has_a_row_for_each_rank(front: Served, broker: ScriptedBroker) -> None:
    ranks = [
        RankView(
            rank=rank,
            pid=100 + rank,
            device="cpu",
            stage=Stage.IDLE,
            step=0,
            memory_bytes=1,
            beat_age_s=0.5,
        )
        for rank in range(8)
    ]
    group = GroupView(group="g0", epoch=1, ready=True, restarts=2, job_id=None, ranks=ranks)
    broker.health = HealthFound(
        ready=True, draining=False, queued=3, running=1, stopping=1, groups=[group]
    )
    status, answer = await front.get("/health")
    assert status == 200
    assert (answer["running"], answer["stopping"]) == (1, 1)
    assert (answer["status"], answer["total_tasks"], answer["pipeline_world_size"]) == (
        "healthy",
        4,
        8,
    )
    assert [(row["rank"], row["pid"], row["restarts"]) for row in answer["ranks"]] == [
        (rank, 100 + rank, 2) for rank in range(8)
    ]


async def test_health_is_503_without_a_ready_group(front: Served, broker: ScriptedBroker) -> None:
    broker.health = HealthFound(ready=False, draining=False, queued=0, running=0, groups=[])
    status, answer = await front.get("/health")
    assert (status, answer["status"]) == (503, "unhealthy")


async def test_health_is_503_within_5_s_when_the_broker_is_silent(
    front: Served, broker: ScriptedBroker
) -> None:
    broker.silent = True
    async with asyncio.timeout(5):
        status, answer = await front.get("/health")
    assert (status, answer["status"]) == (503, "unhealthy")
    assert await front.get("/live") == (200, {"status": "alive"})


async def test_cleanup_returns_the_number_of_removed_jobs(front: Served) -> None:
    await front.submit()
    assert await front.post("/admin/cleanup", None) == (200, {"removed": 1})
