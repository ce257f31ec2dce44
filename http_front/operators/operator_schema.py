"""Bodies of the health checks' and the admin routes' responses."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.process.installed_version import installed_version
from broker.wire.job import Stage
from broker.wire.replies import GroupView, HealthFound, RankView


class RankHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One rank at its last heartbeat."""

    group: str
    rank: int
    pid: int
    device: str
    stage: Stage
    step: int
    memory_bytes: int
    beat_age_s: float
    restarts: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the server accepts and runs jobs now."""

    status: Literal["healthy", "unhealthy", "draining"]
    rank: int = 0
    total_tasks: int = 0
    pipeline_world_size: int = 0
    pipeline_rank: int = 0
    queued: int = 0
    running: int = 0
    stopping: int = 0
    """Of the running ones, those whose job is cancelled or deleted: its group still has to stop."""
    ready_groups: int = 0
    ranks: list[RankHealth] = []
    version: str | None = None
    """Of the server; null for clients without a key, where keys are in use."""

    @classmethod
    def of(cls, found: HealthFound) -> "Health":
        ranks = [_rank_health(group, rank) for group in found.groups for rank in group.ranks]
        healthy: Literal["healthy", "unhealthy"] = "healthy" if found.ready else "unhealthy"
        return cls(
            status="draining" if found.draining else healthy,
            total_tasks=found.queued + found.running,
            pipeline_world_size=len(ranks),
            queued=found.queued,
            running=found.running,
            stopping=found.stopping,
            ready_groups=sum(group.ready for group in found.groups),
            ranks=ranks,
            version=installed_version(),
        )


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The front responds. This says nothing about the broker or the ranks."""

    status: Literal["alive"] = "alive"


class Draining(msgspec.Struct, frozen=True, kw_only=True):
    """The server starts no more jobs and stops when the running ones finish or time out."""

    status: Literal["draining"] = "draining"
    running: Annotated[int, Meta(description="Jobs that may still finish.")]


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Number of expired jobs that were removed."""

    removed: int


def _rank_health(group: GroupView, rank: RankView) -> RankHealth:
    return RankHealth(
        group=group.group,
        rank=rank.rank,
        pid=rank.pid,
        device=rank.device,
        stage=rank.stage,
        step=rank.step,
        memory_bytes=rank.memory_bytes,
        beat_age_s=rank.beat_age_s,
        restarts=group.restarts,
    )
