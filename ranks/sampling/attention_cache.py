"""The attention cache: at some steps a block reuses the self-attention output of an earlier step.

It keeps the output of a block's self-attention after the output projection, before gate and
residual; under Ulysses this is the rank's shard. Whether to reuse depends on the step alone, so
every rank decides alike: ranks that disagreed would wait for each other in a collective forever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import torch


@dataclass(frozen=True, kw_only=True)
class CacheSchedule:
    """Which denoising steps reuse the attention of an earlier step; steps count from 0.

    Args:
        start: First step whose output is kept.
        interval: Attention is computed every `interval` steps within the window.
        end: Last step that reuses; it may lie beyond the last step.
        num_inference_steps: Number of denoising steps.
        phase_starts: Steps that reuse nothing of those before them, as another transformer or none
            of the guidance computes them; the interval counts anew from there. In rising order.

    Raises:
        ValueError: If a number is out of range.
    """

    start: int
    interval: int
    end: int
    num_inference_steps: int
    phase_starts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        is_window = 0 <= self.start <= self.end
        if not (is_window and self.interval >= 1 and self.num_inference_steps >= 1):
            raise ValueError(
                "expected 0 <= start <= end, interval >= 1 and num_inference_steps >= 1, found "
                f"start {self.start}, end {self.end}, interval {self.interval}, "
                f"num_inference_steps {self.num_inference_steps}"
            )

    @property
    def is_off(self) -> bool:
        is_after_run = self.start >= self.num_inference_steps
        return self.interval == 1 or self.start == self.end or is_after_run

    def reuses(self, step: int) -> bool:
        if self.is_off or not self.start < step <= self.end:
            return False
        first = max([self.start, *(start for start in self.phase_starts if start <= step)])
        return (step - first) % self.interval != 0

    def stores(self, step: int) -> bool:
        # `end` may reuse but does not store.
        return not self.is_off and self.start <= step < self.end and not self.reuses(step)

    @cached_property
    def last_reuse(self) -> int:
        steps = range(self.num_inference_steps)
        return max((step for step in steps if self.reuses(step)), default=-1)

    def can_begin_at(self, step: int) -> bool:
        # A step that reuses cannot be the first, because the kept outputs are lost.
        return not self.reuses(step)


class AttentionCache:
    """The kept outputs of one run, one for each guidance branch and block.

    A context manager, so that the outputs are freed even if the run fails or is cancelled.
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
        return sum(kept.nbytes for kept in self._kept.values())

    def attend(
        self, step: int, branch: int, block: int, compute: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Return the self-attention output `[B, L, C]` of a block, kept or computed.

        Args:
            step: Denoising step, from 0.
            branch: Guidance branch; branches never share an output.
            block: Index of the transformer block.
            compute: Runs the block's self-attention.
        """
        key = (branch, block)
        if self._schedule.reuses(step):
            # The last reuse removes the tensor, so that it is freed once the block has used it.
            take = self._kept.pop if step == self._schedule.last_reuse else self._kept.__getitem__
            return take(key)
        # Free the old output before computing the new one: one output per block at the peak.
        self._kept.pop(key, None)
        output = compute()
        if self._schedule.stores(step) and step < self._schedule.last_reuse:
            self._kept[key] = output
        return output
