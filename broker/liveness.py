"""Who still works: the beats of a group's ranks, judged by age and by finished work."""

import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from broker.job import Stage
from broker.protocol import Beat, RankView

BEAT_LIMIT_S = 10.0
FRESH_S = 5.0
FIRST_STEP_LIMITS = 5
"""How many times the limit of a step the steps may take before one of them is known: at first
kernels are chosen, and nothing tells how slow the cards are. A step of the largest clip takes 96 s
on one Ascend 910B, 68 s on one A100."""
STEP_LIMIT_MEDIANS = 10
STAGE_LIMIT_S = {
    Stage.LOAD: 1800.0,
    # Accelerators connect to each other during the first run, and give up after 120 s.
    Stage.ENCODE: 180.0,
    Stage.DECODE: 180.0,
    Stage.SAVE: 60.0,
}
_IDLED_IN = {stage: f"has finished nothing in stage {stage.value} for" for stage in Stage}
_LONGEST_SLEEP_S = 2.0


class AwakeClock:
    """Time in which the broker could listen.

    A broker that was stopped, or waited for a full disk, must not take its own silence for that of
    its peers: each look at the clock counts for two seconds at most.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._seen_s: float | None = None

    def advance(self, now_s: float) -> None:
        """Look at the ordinary clock."""
        self.now_s, self._seen_s = self.at(now_s), now_s

    def at(self, now_s: float) -> float:
        """Return the awake time at a moment of the ordinary clock, as a look then would find it."""
        if self._seen_s is None:
            return self.now_s
        return self.now_s + min(max(now_s - self._seen_s, 0.0), _LONGEST_SLEEP_S)


@dataclass(slots=True)
class _Heard:
    beat: Beat
    at_s: float
    worked_at_s: float


class _Limit(NamedTuple):
    """Until when a rank may go on as it does."""

    until_s: float
    length_s: float
    fault: str


class RankWatch:
    """The beats of one life of a group; all times are those of an `AwakeClock`."""

    def __init__(self, since_s: float, step_limit_s: float = 60.0) -> None:
        self.world_size = 0
        """How many ranks have to beat; none before the group has told how many there are."""
        self.patience = 1.0
        """How many times as long as on an accelerator their work may take."""
        self._step_limit_s = step_limit_s
        self._since_s = since_s
        self._heard: dict[int, _Heard] = {}
        self._step_work = 1.0
        self._paces_s: deque[float] = deque(maxlen=64)
        """Seconds a unit of work, of the latest steps."""
        self._usual_pace_s = 0.0
        self._sound_until_s = 0.0
        """No rank can be at fault before: most looks at a group of a large fleet end here."""

    def hear(self, beat: Beat, awake_s: float) -> None:
        """Take a beat; a higher count or another stage is finished work."""
        if not 0 <= beat.rank < self.world_size:
            return
        known = self._heard.get(beat.rank)
        if known is None or known.beat.stage is not beat.stage:
            self._heard[beat.rank] = _Heard(beat, awake_s, awake_s)
            self._sound_until_s = 0.0
            return
        if known.beat.num_done != beat.num_done:
            known.worked_at_s = awake_s
        known.beat, known.at_s = beat, awake_s

    def expect_steps(self, work: float) -> None:
        """Take how much work a denoising step of the present run is, as `step_work` counts it."""
        if work != self._step_work:
            self._step_work = work
            self._sound_until_s = 0.0

    def learn_step(self, step_s: float) -> None:
        """Take the time of a denoising step, which decides how long the next ones may last."""
        before_s = self._work_limit_s(Stage.DENOISE)
        self._paces_s.append(step_s / self._step_work)
        self._usual_pace_s = statistics.median(self._paces_s)
        if self._work_limit_s(Stage.DENOISE) < before_s:
            self._sound_until_s = 0.0

    def expect_all(self, world_size: int, awake_s: float) -> None:
        """From now on every one of these ranks has to beat, also those not heard so far."""
        self.world_size = world_size
        self._since_s = awake_s
        self._sound_until_s = 0.0

    def fault(self, loaded: bool, awake_s: float) -> str | None:
        """Return what is wrong with the group, for the log; None while it is well."""
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
        """Whether every rank has been heard a moment ago."""
        last_s = (
            self._heard[rank].at_s if rank in self._heard else self._since_s
            for rank in range(self.world_size)
        )
        return all(awake_s - at_s <= FRESH_S for at_s in last_s)

    def views(self, awake_s: float) -> list[RankView]:
        """Return a row for each rank that has been heard."""
        return [
            RankView(
                rank=rank,
                pid=heard.beat.pid,
                device=heard.beat.device,
                stage=heard.beat.stage,
                step=heard.beat.step,
                memory_bytes=heard.beat.memory_bytes,
                beat_age_s=round(awake_s - heard.at_s, 3),
            )
            for rank, heard in sorted(self._heard.items())
        ]

    def _limits(self, rank: int, loaded: bool) -> Iterator[_Limit]:
        heard = self._heard.get(rank)
        if heard is None:
            length_s = BEAT_LIMIT_S if loaded else STAGE_LIMIT_S[Stage.LOAD]
            yield _Limit(self._since_s + length_s, length_s, "has sent no beat in")
            return
        yield _Limit(heard.at_s + BEAT_LIMIT_S, BEAT_LIMIT_S, "has sent no beat for")
        stage = heard.beat.stage
        length_s = self._work_limit_s(stage)
        yield _Limit(heard.worked_at_s + length_s, length_s, _IDLED_IN[stage])

    def _work_limit_s(self, stage: Stage) -> float:
        if stage is Stage.IDLE:
            return float("inf")
        if stage is not Stage.DENOISE:
            return self.patience * STAGE_LIMIT_S[stage]
        limit_s = self.patience * self._step_limit_s
        if not self._paces_s:
            return FIRST_STEP_LIMITS * limit_s
        return max(limit_s, STEP_LIMIT_MEDIANS * self._usual_pace_s * self._step_work)
