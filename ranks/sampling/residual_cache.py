"""MagCache and TeaCache: a skipped step adds to its tokens what the blocks once added to others.

Both know before the run which steps they skip: from ratios or coefficients published for a model.

Shapes: B batch (always 1), L tokens of this rank, C channels of the model.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from ranks.sampling.phases import Phases
from ranks.sampling.step_cache import StepCache


class Residuals:
    """What all blocks together have added to this rank's tokens, one for each guidance branch."""

    def __init__(self) -> None:
        self.is_reusing = False
        self._kept: list[Tensor] = []

    def pass_blocks(self, hidden_BLC: Tensor, blocks: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Return each branch's tokens after the blocks, computed or with the kept residuals.

        Args:
            hidden_BLC: Tokens before the blocks, the same for every branch.
            blocks: Computes the tokens after them.
        """
        if self.is_reusing:
            assert self._kept, "a skipped step follows none that was computed"
            return [hidden_BLC + kept for kept in self._kept]
        # Free the old ones before the blocks run: one residual for each branch at the peak.
        self._kept.clear()
        outputs = blocks()
        self._kept = [output_BLC - hidden_BLC for output_BLC in outputs]
        return outputs

    def clear(self) -> None:
        self._kept.clear()


class ListedStepCache(StepCache):
    """Skips listed steps. The run clears its residuals when it ends, however it ends.

    Args:
        phases: Phases of the run.
        steps: Steps to skip. Only rank 0's list counts.
    """

    def __init__(self, phases: Phases, steps: Sequence[int]) -> None:
        super().__init__(phases)
        self.residuals = Residuals()
        self._steps = tuple(steps)

    @property
    def skipped_steps(self) -> Sequence[int]:
        return self._steps

    @property
    def can_begin_here(self) -> bool:
        return not self.is_skipping  # no checkpoint holds the residuals

    def _is_skippable(self, step: int, latents: Tensor) -> bool:
        return step in self._steps

    def velocity(self, step: int, latents: Tensor, predict: Callable[[], Tensor]) -> Tensor:
        if step in self.phases.starts:
            self.residuals.clear()
        self.residuals.is_reusing = self.is_skipping
        return predict()
