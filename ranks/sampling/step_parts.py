"""Boundaries inside a long denoising step, between transformer blocks.

There a run can end and its progress shows, long before the end of the step. All ranks must meet at
the same blocks: they agree how many parts the next step has, and count blocks, of which every rank
computes as many.
"""

from collections.abc import Callable

import torch

from ranks.device import Device
from ranks.errors import RunInterrupted

PART_S = 1.0
"""How long a part takes, about: a meeting takes a millisecond. Shorter steps are not divided."""
FIRST_PARTS = 8
"""Parts of a group's first step, before anything shows how long its steps take."""
_MOST_PARTS = 1000


class StepPace:
    """How long the steps of this rank take for their work, as the latest one shows."""

    def __init__(self) -> None:
        self._pace_s: float | None = None

    def learn(self, work: float, step_s: float) -> None:
        self._pace_s = step_s / work

    def num_parts(self, work: float) -> int:
        """Return how many parts this rank proposes for a step, given its work."""
        if self._pace_s is None:
            return FIRST_PARTS
        return min(max(int(self._pace_s * work / PART_S), 1), _MOST_PARTS)


class StepParts:
    """Divides the steps of one run.

    Args:
        device: Of this rank.
        finish_part: Called with the part of the step that is done, from 0 to 1. Raises
            `RunInterrupted`, on every rank alike, if the run ends there.
    """

    def __init__(self, device: Device, finish_part: Callable[[float], None]) -> None:
        self.num_parts = 1
        """Of the next step, as all ranks have agreed."""
        self._device = device
        self._finish_part = finish_part
        self._interruption: RunInterrupted | None = None
        self._num_blocks = self._num_begun = 0
        self._boundaries: frozenset[int] = frozenset()
        self._queued: tuple[torch.Event, float] | None = None

    def begin_step(self, num_blocks: int) -> None:
        """Divide a step in which this rank, like every other, runs so many blocks."""
        num_parts = min(self.num_parts, num_blocks)
        self._boundaries = frozenset(num_blocks * part // num_parts for part in range(1, num_parts))
        self._num_blocks, self._num_begun = num_blocks, 0
        self._queued = None

    def goes_on(self) -> bool:
        """Return whether to run the next block; called before each."""
        if self._interruption is None and self._num_begun in self._boundaries:
            try:
                self._finish_part(self._await_part())
            except RunInterrupted as interruption:
                self._interruption = interruption
        self._num_begun += 1
        return self._interruption is None

    def end_step(self) -> None:
        """Raise what has ended the run, if it ended at one of the boundaries of this step.

        Not raised there, so that FSDP comes to the regular end of its forward pass: otherwise the
        gathered weights of a block would stay, and the next pass would not wait for changed ones.
        """
        if self._interruption is not None:
            raise self._interruption

    def _await_part(self) -> float:
        """Return how much of the step is done.

        An accelerator is then still at work on the part that the host has queued last. Waiting for
        the part before it, it never runs out of work.
        """
        begun = self._num_begun / self._num_blocks
        event = self._device.record_event()
        if event is None:
            return begun
        before, self._queued = self._queued, (event, begun)
        if before is None:
            return 0.0
        before[0].synchronize()
        return before[1]
