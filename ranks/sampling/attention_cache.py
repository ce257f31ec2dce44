"""The attention cache: at some steps a block reuses the self-attention output of an earlier step.

What is kept is the output of a block's self-attention after its output projection, before gate and
residual; under Ulysses it is this rank's shard. Every rank decides alike, since the decision
depends on the step alone: ranks that disagreed would wait for each other in a collective for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import torch


@dataclass(frozen=True, kw_only=True)
class CacheSchedule:
    """Which steps of a run reuse the attention of an earlier step; steps count from 0.

    The window may be longer than the run.

    Raises:
        ValueError: If a number is out of its range.
    """

    start: int
    interval: int
    end: int
    num_steps: int

    def __post_init__(self) -> None:
        if not (0 <= self.start <= self.end and self.interval >= 1 and self.num_steps >= 1):
            raise ValueError(
                "expected 0 <= start <= end, interval >= 1 and num_steps >= 1, found "
                f"start {self.start}, end {self.end}, interval {self.interval}, "
                f"num_steps {self.num_steps}"
            )

    @property
    def is_off(self) -> bool:
        """Whether every step computes and nothing is kept."""
        return self.interval == 1 or self.start == self.end or self.start >= self.num_steps

    def reuses(self, step: int) -> bool:
        """Return whether `step` takes the kept output instead of computing it."""
        if self.is_off or not self.start < step <= self.end:
            return False
        return (step - self.start) % self.interval != 0

    def stores(self, step: int) -> bool:
        """Return whether `step` keeps the output that it computes.

        The end of the window is included for reuse and excluded for storing.
        """
        return not self.is_off and self.start <= step < self.end and not self.reuses(step)

    @cached_property
    def last_reuse(self) -> int:
        """The last step that reuses, -1 where none does."""
        return max((step for step in range(self.num_steps) if self.reuses(step)), default=-1)

    def can_begin_at(self, step: int) -> bool:
        """Return whether an interrupted run may go on at `step` with an empty cache.

        A step that reuses cannot be the first: what it would take was lost with the processes.
        """
        return not self.reuses(step)


class AttentionCache:
    """The kept outputs of one run, one for each guidance branch and block.

    Used as a context, so that a run that is cancelled or fails frees them too.
    """

    def __init__(self, schedule: CacheSchedule) -> None:
        self._schedule = schedule
        self._kept: dict[tuple[int, int], torch.Tensor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kept.clear()

    @property
    def num_bytes(self) -> int:
        """Memory of all that is kept now."""
        return sum(kept.nbytes for kept in self._kept.values())

    def attend(
        self, step: int, branch: int, block: int, compute: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Return the self-attention output of a block at a step, kept or computed.

        Args:
            step: Denoising step, from 0.
            branch: Guidance branch; branches never share an output.
            block: Transformer block.
            compute: Runs the block's self-attention.
        """
        key = (branch, block)
        if self._schedule.reuses(step):
            # The last reuse hands the tensor out for good; it is freed once the block has used it.
            take = self._kept.pop if step == self._schedule.last_reuse else self._kept.__getitem__
            return take(key)
        # Freed before the new one is made: the peak is one output a block, not two.
        self._kept.pop(key, None)
        output = compute()
        if self._schedule.stores(step) and step < self._schedule.last_reuse:
            self._kept[key] = output
        return output
