"""How far a job is, and how long it will still take: learned from the steps of earlier runs."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from broker.wire.job import JobSpec, Stage, parse_size
from broker.wire.protocol import StepDone

RUN_STAGES = (Stage.ENCODE, Stage.DENOISE, Stage.DECODE, Stage.SAVE)
_SHARE = {Stage.ENCODE: 0.05, Stage.DENOISE: 0.85, Stage.DECODE: 0.08, Stage.SAVE: 0.02}
_WEIGHT_OF_NEWEST = 0.3


def fraction_done(stage: Stage, step: int, num_steps: int) -> float:
    """Return which part of a run, 0 to 1, is over once a step of a stage is."""
    before = sum(_SHARE[earlier] for earlier in RUN_STAGES[: RUN_STAGES.index(stage)])
    return min(1.0, before + _SHARE[stage] * min(step / max(num_steps, 1), 1.0))


@dataclass(slots=True)
class StageProgress:
    """A moment of a run: a stage, the part of it that is over, and when that was so."""

    at_s: float
    stage: Stage
    done: float = 0.0


class Work(NamedTuple):
    """What runs have to do in each of their stages."""

    encode: int
    denoise: int
    decode: int
    save: int


NO_WORK = Work(0, 0, 0, 0)


def work_of(spec: JobSpec) -> Work:
    """Return the work of a run.

    Jobs of all sizes teach one pace, hence the unit: pixels of the whole clip, times the guidance
    branches and steps where they count.
    """
    num_branches = 2 if spec.guidance_scale > 1.0 else 1
    return _work(spec.image_size, spec.num_model_frames, spec.infer_steps * num_branches)


@lru_cache(maxsize=4096)
def _work(image_size: str, num_frames: int, num_passes: int) -> Work:
    width_px, height_px = parse_size(image_size)
    clip_px = width_px * height_px * num_frames
    return Work(1, clip_px * num_passes, clip_px, clip_px)


class Pace:
    """Seconds that each stage takes per unit of work, as a moving average."""

    def __init__(self) -> None:
        self._rates: dict[Stage, float] = {}

    def learn(
        self, spec: JobSpec, mark: StageProgress, report: StepDone, now_s: float
    ) -> StageProgress:
        """Return the mark after a step, and keep how long it took if the mark tells."""
        done = min(report.step / max(report.num_steps, 1), 1.0)
        if mark.stage is report.stage and done > mark.done:
            self.keep(spec, report.stage, (now_s - mark.at_s) / (done - mark.done))
        if done < 1.0 or report.stage is Stage.SAVE:
            return StageProgress(now_s, report.stage, done)
        return StageProgress(now_s, RUN_STAGES[RUN_STAGES.index(report.stage) + 1])

    def step_s(self, mark: StageProgress, report: StepDone, now_s: float) -> float | None:
        """Return how long one step took; None if the mark does not tell."""
        num_steps = report.step - mark.done * report.num_steps
        if mark.stage is not report.stage or num_steps < 0.5:
            return None
        return (now_s - mark.at_s) / num_steps

    def keep(self, spec: JobSpec, stage: Stage, stage_s: float) -> None:
        """Take the time of a whole stage into the average."""
        rate = stage_s / work_of(spec)[RUN_STAGES.index(stage)]
        known = self._rates.get(stage)
        self._rates[stage] = rate if known is None else known + _WEIGHT_OF_NEWEST * (rate - known)

    def run_s(self, work: Work) -> float | None:
        """Return how long whole runs of this work take; None while no run has taught it."""
        if Stage.DENOISE not in self._rates:
            return None
        return sum(self._stages_s(work))

    def remaining_s(self, spec: JobSpec, mark: StageProgress, now_s: float) -> float | None:
        """Return how long the rest of a run takes from now; None while nothing is known."""
        first = RUN_STAGES.index(mark.stage)
        if mark.stage in (Stage.ENCODE, Stage.DENOISE) and Stage.DENOISE not in self._rates:
            return None
        present_s, *later_s = self._stages_s(work_of(spec))[first:]
        left_s = present_s * (1.0 - mark.done) + sum(later_s)
        return max(0.0, left_s - (now_s - mark.at_s))

    def _stages_s(self, work: Work) -> list[float]:
        return [
            self._rates.get(stage, 0.0) * amount
            for stage, amount in zip(RUN_STAGES, work, strict=True)
        ]
