"""Whether a group hangs: by the age of its ranks' heartbeats, and by the work they finish."""

import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from broker.wire.job import Stage
from broker.wire.rank_messages import Heartbeat
from broker.wire.replies import RankView

HEARTBEAT_LIMIT_S = 10.0
FRESH_S = 5.0
FIRST_STEP_LIMITS = 5
"""How many times the step limit holds until one step is known: at first kernels are chosen, and
nothing shows how slow the cards are. A step of the largest clip takes 96 s on one Ascend 910B and
68 s on one A100."""
STEP_LIMIT_MEDIANS = 10
STAGE_LIMIT_S = {
    Stage.LOAD: 1800.0,
    # Accelerators connect to each other during the first run, and give up after 120 s.
    Stage.ENCODE: 180.0,
    Stage.DECODE: 180.0,
    Stage.SAVE: 60.0,
}
_NO_WORK_DONE = {stage: f"has finished nothing in stage {stage.value} for" for stage in Stage}
_LONGEST_SLEEP_S = 2.0


class AwakeClock:
    """Time in which the broker could listen.

    A broker that was stopped, or waited for a full disk, must not mistake its own silence for that
    of its peers: each reading of the clock counts for two seconds at most.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._seen_s: float | None = None

    def advance(self, now_s: float) -> None:
        self.now_s, self._seen_s = self.at(now_s), now_s

    def at(self, now_s: float) -> float:
        """Return the awake time that a reading of the ordinary clock would give."""
        if self._seen_s is None:
            return self.now_s
        return self.now_s + min(max(now_s - self._seen_s, 0.0), _LONGEST_SLEEP_S)


@dataclass(slots=True)
class _Heard:
    """The latest heartbeat of a rank."""

    heartbeat: Heartbeat
    at_s: float
    worked_at_s: float


class _Limit(NamedTuple):
    """Until when a rank may stay silent, or idle in its stage."""

    until_s: float
    length_s: float
    fault: str


class RankWatch:
    """The heartbeats of one life of a group; all times are those of an `AwakeClock`."""

    def __init__(self, since_s: float, step_limit_s: float = 60.0) -> None:
        self.world_size = 0
        """How many ranks must send heartbeats; 0 before the group has reported its size."""
        self.patience = 1.0
        """How many times as long as on an accelerator the work may take."""
        self._step_limit_s = step_limit_s
        self._since_s = since_s
        self._heard: dict[int, _Heard] = {}
        self._step_work = 1.0
        self._paces_s: deque[float] = deque(maxlen=64)
        """Seconds per unit of work, of the latest steps."""
        self._usual_pace_s = 0.0
        self._sound_until_s = 0.0
        """No limit is reached before: with many groups, most checks end here."""

    def observe(self, heartbeat: Heartbeat, awake_s: float) -> None:
        if not 0 <= heartbeat.rank < self.world_size:
            return
        known = self._heard.get(heartbeat.rank)
        if known is None or known.heartbeat.stage is not heartbeat.stage:
            self._heard[heartbeat.rank] = _Heard(heartbeat, awake_s, awake_s)
            self._sound_until_s = 0.0
            return
        if known.heartbeat.num_done != heartbeat.num_done:
            known.worked_at_s = awake_s
        known.heartbeat, known.at_s = heartbeat, awake_s

    def expect_steps(self, work: float) -> None:
        """Take the work of a denoising step, in the unit of `step_work`."""
        if work != self._step_work:
            self._step_work = work
            self._sound_until_s = 0.0

    def learn_step(self, step_s: float) -> None:
        before_s = self._work_limit_s(Stage.DENOISE)
        self._paces_s.append(step_s / self._step_work)
        self._usual_pace_s = statistics.median(self._paces_s)
        if self._work_limit_s(Stage.DENOISE) < before_s:
            self._sound_until_s = 0.0

    def expect_all(self, world_size: int, awake_s: float) -> None:
        self.world_size = world_size
        self._since_s = awake_s
        self._sound_until_s = 0.0

    def fault(self, loaded: bool, awake_s: float) -> str | None:
        if awake_s <= self._sound_until_s:
            return None
        self._sound_until_s = float("inf")
        for rank in range(self.world_size):
            for limit in self._limits(rank, loaded):
                if awake_s > limit.until_s:
                    self._sound_until_s = 0.0
                    return f"rank {rank} {limit.fault} {limit.length_s:g} s"
                self._sound_until_s = min(self._sound_until_s, limit.until_s)
        return None

    def is_fresh(self, awake_s: float) -> bool:
        last_s = (
            self._heard[rank].at_s if rank in self._heard else self._since_s
            for rank in range(self.world_size)
        )
        return all(awake_s - at_s <= FRESH_S for at_s in last_s)

    def views(self, awake_s: float) -> list[RankView]:
        return [
            RankView(
                rank=rank,
                pid=heard.heartbeat.pid,
                device=heard.heartbeat.device,
                stage=heard.heartbeat.stage,
                step=heard.heartbeat.step,
                memory_bytes=heard.heartbeat.memory_bytes,
                # A heartbeat may come after the tick that read the time.
                beat_age_s=round(max(awake_s - heard.at_s, 0.0), 3),
            )
            for rank, heard in sorted(self._heard.items())
        ]

    def _limits(self, rank: int, loaded: bool) -> Iterator[_Limit]:
        heard = self._heard.get(rank)
        if heard is None:
            length_s = HEARTBEAT_LIMIT_S if loaded else STAGE_LIMIT_S[Stage.LOAD]
            yield _Limit(self._since_s + length_s, length_s, "has sent no heartbeat in")
            return
        yield _Limit(heard.at_s + HEARTBEAT_LIMIT_S, HEARTBEAT_LIMIT_S, "has sent no heartbeat for")
        stage = heard.heartbeat.stage
        length_s = self._work_limit_s(stage)
        yield _Limit(heard.worked_at_s + length_s, length_s, _NO_WORK_DONE[stage])

    def _work_limit_s(self, stage: Stage) -> float:
        if stage is Stage.IDLE:
            return float("inf")
        if stage is not Stage.DENOISE:
            return self.patience * STAGE_LIMIT_S[stage]
        limit_s = self.patience * self._step_limit_s
        if not self._paces_s:
            return FIRST_STEP_LIMITS * limit_s
        return max(limit_s, STEP_LIMIT_MEDIANS * self._usual_pace_s * self._step_work)
