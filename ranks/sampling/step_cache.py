"""Step caches: a step that would change little reuses what an earlier step has computed.

Which steps are skipped decides rank 0 alone, at the boundary before the step: ranks that disagreed
would wait for each other in a collective forever. The answer travels with the agreement to go on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ranks.sampling.phases import Phases


class StepCache(ABC):
    """The step cache of one run, on one rank.

    Args:
        phases: Phases of the run, whose first steps are always computed.
    """

    def __init__(self, phases: Phases) -> None:
        self.phases = phases
        self.is_skipping = False
        """Whether the next step is skipped: rank 0's answer, the same on every rank."""

    @property
    @abstractmethod
    def skipped_steps(self) -> Sequence[int]:
        """The steps that are skipped, as far as they are known."""

    @property
    @abstractmethod
    def can_begin_here(self) -> bool:
        """Whether the run can be resumed before the next step."""

    def wants_to_skip(self, step: int, latents: Tensor) -> bool:
        """Return whether to skip a step, called once before each but the first.

        Args:
            step: Denoising step, from 0.
            latents: Whole latents before the step, `[1, C, T, H, W]`, float32.
        """
        is_fixed = step in self.phases.starts or step >= self.phases.num_steps
        return not is_fixed and self._is_skippable(step, latents)

    @abstractmethod
    def _is_skippable(self, step: int, latents: Tensor) -> bool: ...

    @abstractmethod
    def velocity(self, step: int, latents: Tensor, predict: Callable[[], Tensor]) -> Tensor:
        """Return the velocity of a step, computed or reused as `is_skipping` says.

        Args:
            step: Denoising step, from 0.
            latents: Whole latents before the step, `[1, C, T, H, W]`, float32.
            predict: Runs the model; returns the guided velocity, as the latents.
        """

    def state(self) -> dict[str, Tensor]:
        """Return what another process needs to go on, together with the next step's decision."""
        return {"is_skipping": torch.tensor(self.is_skipping)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.is_skipping = bool(state["is_skipping"].item())
