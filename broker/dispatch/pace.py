"""How far a job is, and how long it will still take: learned from the steps of earlier jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from broker.wire.job import JobSpec, Stage, parse_size
from broker.wire.model_profile import ModelProfile
from broker.wire.rank_messages import StepDone

ATTEMPT_STAGES = (Stage.ENCODE, Stage.DENOISE, Stage.DECODE, Stage.SAVE)
_SHARE = {Stage.ENCODE: 0.05, Stage.DENOISE: 0.85, Stage.DECODE: 0.08, Stage.SAVE: 0.02}
_WEIGHT_OF_NEWEST = 0.3
_LEAST_PART = 0.001
"""Of a step; less is a rounding error."""


def fraction_done(stage: Stage, step: float, num_steps: int) -> float:
    """Return the part of an attempt, from 0 to 1, that is done after a step."""
    before = sum(_SHARE[earlier] for earlier in ATTEMPT_STAGES[: ATTEMPT_STAGES.index(stage)])
    return min(1.0, before + _SHARE[stage] * min(step / max(num_steps, 1), 1.0))


@dataclass(slots=True)
class StageProgress:
    """How much of a stage was done, and when that was reported."""

    at_s: float
    stage: Stage
    done: float = 0.0


class Work(NamedTuple):
    """The work of an attempt in each of its stages, in the unit of `work_of`."""

    encode: int
    denoise: int
    decode: int
    save: int


NO_WORK = Work(0, 0, 0, 0)


def work_of(spec: JobSpec) -> Work:
    """Return the work of an attempt.

    The unit is pixels of the whole clip, times guidance branches and steps where they count, so
    that jobs of all sizes teach one pace.
    """
    num_guided = spec.num_guided_steps if spec.guidance_scale > 1.0 else 0
    return _work(spec.image_size, spec.num_model_frames, spec.infer_steps + num_guided)


def typical_work(profile: ModelProfile) -> Work:
    """Return the work of a job that leaves everything to its model's defaults."""
    spec = JobSpec(
        prompt="-",
        image_size=profile.image_size,
        num_frames=profile.num_frames,
        infer_steps=profile.infer_steps,
        guidance_scale=profile.guidance_scale,
    )
    return work_of(spec)


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
        self, spec: JobSpec, progress: StageProgress, report: StepDone, now_s: float
    ) -> StageProgress:
        done = min((report.step + report.part) / max(report.num_steps, 1), 1.0)
        is_new = progress.stage is report.stage and done > progress.done
        if is_new and not report.is_skipped:
            self.keep(spec, report.stage, (now_s - progress.at_s) / (done - progress.done))
        if done < 1.0 or report.stage is Stage.SAVE:
            return StageProgress(now_s, report.stage, done)
        return StageProgress(now_s, ATTEMPT_STAGES[ATTEMPT_STAGES.index(report.stage) + 1])

    def step_s(self, progress: StageProgress, report: StepDone, now_s: float) -> float | None:
        """Return how long one step takes; None if the progress before does not tell."""
        num_steps = report.step + report.part - progress.done * report.num_steps
        if progress.stage is not report.stage or num_steps < _LEAST_PART:
            return None
        return (now_s - progress.at_s) / num_steps

    def keep(self, spec: JobSpec, stage: Stage, stage_s: float) -> None:
        """Take the time of a whole stage into the average."""
        rate = stage_s / work_of(spec)[ATTEMPT_STAGES.index(stage)]
        known = self._rates.get(stage)
        self._rates[stage] = rate if known is None else known + _WEIGHT_OF_NEWEST * (rate - known)

    def stages_s(self, work: Work) -> dict[str, float]:
        """Return the seconds of each stage; empty until a job has been through all of them."""
        if not self._knows(ATTEMPT_STAGES):
            return {}
        seconds = self._stages_s(work)
        return {stage.value: s for stage, s in zip(ATTEMPT_STAGES, seconds, strict=True)}

    def attempt_s(self, work: Work) -> float | None:
        return sum(self._stages_s(work)) if self._knows(ATTEMPT_STAGES) else None

    def remaining_s(
        self,
        spec: JobSpec,
        progress: StageProgress,
        now_s: float,
        skipped_steps: Sequence[int] = (),
    ) -> float | None:
        first = ATTEMPT_STAGES.index(progress.stage)
        if not self._knows(ATTEMPT_STAGES[first:]):
            return None
        present_s, *later_s = self._stages_s(work_of(spec))[first:]
        left = 1.0 - progress.done
        if progress.stage is Stage.DENOISE:
            num_done = round(progress.done * spec.infer_steps)
            left -= sum(step >= num_done for step in skipped_steps) / spec.infer_steps
        left_s = present_s * left + sum(later_s)
        return max(0.0, left_s - (now_s - progress.at_s))

    def _knows(self, stages: Sequence[Stage]) -> bool:
        """Whether all of these have been measured: a sum without one of them is too short."""
        return all(map(self._rates.__contains__, stages))

    def _stages_s(self, work: Work) -> list[float]:
        return [
            self._rates.get(stage, 0.0) * amount
            for stage, amount in zip(ATTEMPT_STAGES, work, strict=True)
        ]
