"""EasyCache: skip steps while the velocity is predicted to change little.

Near a step, velocity and latents change in a constant proportion. So the change of the latents
alone, which costs nothing, tells how much the velocity would change.

Source:
    EasyCache, `EasyCache4Wan2.2/easycache_generate.py`. There the conditional branch decides for
    both branches; here the guided velocity does, which every rank holds. What a skipped step
    computes is the same, because guidance is linear and its weights sum to 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ranks.sampling.phases import Phases
from ranks.sampling.step_cache import StepCache

_NUM_FIRST, _NUM_LAST = 10, 1
"""Steps of each transformer that are always computed."""


class EasyCache(StepCache):
    """EasyCache on whole latents: a skipped step needs no model and no collective.

    Args:
        phases: Phases of the run.
        threshold: Relative change of the velocity that skipped steps may add up to.
    """

    can_begin_here = True  # its state is part of the checkpoint

    def __init__(self, phases: Phases, threshold: float) -> None:
        super().__init__(phases)
        self._threshold = threshold
        self._skipped: list[int] = []
        self._kept: dict[str, Tensor] = {}
        """`previous`: latents of the latest step. `latents`, `velocity`: of the latest computed
        one. `rate`: change of velocity over change of latents, between the two latest computed
        ones. `change`: predicted since the latest computed one."""

    @property
    def skipped_steps(self) -> Sequence[int]:
        return tuple(self._skipped)

    def _is_skippable(self, step: int, latents: Tensor) -> bool:
        steps = self.phases.steps_of_transformer(step)
        if step not in steps[_NUM_FIRST : len(steps) - _NUM_LAST] or "rate" not in self._kept:
            return False
        kept = self._kept
        moved = _mean(latents - kept["previous"])
        kept["change"] = kept["change"] + kept["rate"] * moved / _mean(kept["velocity"])
        return bool(kept["change"] < self._threshold)

    def velocity(self, step: int, latents: Tensor, predict: Callable[[], Tensor]) -> Tensor:
        if self.is_skipping:
            self._skipped.append(step)
            self._kept["previous"] = latents
            return latents + (self._kept["velocity"] - self._kept["latents"])
        velocity = predict()
        kept = {} if step in self.phases.starts else self._kept
        self._kept = {
            "previous": latents,
            "latents": latents,
            "velocity": velocity,
            "change": torch.tensor(0.0),
        }
        if "velocity" in kept:
            rate = _mean(velocity - kept["velocity"]) / _mean(latents - kept["latents"])
            if rate.isfinite():  # two steps may have the same latents
                self._kept["rate"] = rate
        return velocity

    def state(self) -> dict[str, Tensor]:
        mask = torch.zeros(self.phases.num_steps, dtype=torch.bool)
        mask[self._skipped] = True
        # Copies: a file holds no tensor twice, and the solver keeps some of them, too.
        kept = {name: value.clone() for name, value in self._kept.items()}
        return super().state() | kept | {"skipped": mask}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._skipped = state["skipped"].nonzero().flatten().tolist()
        others = ("is_skipping", "skipped")
        self._kept = {name: value for name, value in state.items() if name not in others}


def _mean(values: Tensor) -> Tensor:
    return values.abs().mean()
