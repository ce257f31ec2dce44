"""The control channel of a group: job announcements and decisions, over gloo, apart from tensors.

There are exactly two operations, and all ranks are always about to do the same one: `announce`
while idle, `meet` during a run. So a rank that fails anywhere in a run can inform the others
simply by meeting them early.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.distributed as dist

from broker.wire.errors import ErrorCode
from ranks.errors import GroupStopping, PeerFailed, RunCancelled, RunPreempted

ANNOUNCE_EVERY_S = 5.0
"""Interval of empty announcements while idle: a broadcast must not outlast the group's timeout."""

_MEET_AFTER_FAILURE = timedelta(seconds=30)


class Decision(IntEnum):
    """A decision at a boundary; if ranks differ, the greatest value wins."""

    GO_ON = 0
    PREEMPT = 1
    CANCEL = 2
    STOP = 3
    SAVE_FAILED = 4
    IMAGE_INVALID = 5
    OUT_OF_MEMORY = 6
    NOT_FINITE = 7
    LORA_INVALID = 8
    RUN_FAILED = 9


_INTERRUPTIONS = {
    Decision.PREEMPT: RunPreempted,
    Decision.CANCEL: RunCancelled,
    Decision.STOP: GroupStopping,
}
FAILURES = {
    ErrorCode.SAVE_FAILED: Decision.SAVE_FAILED,
    ErrorCode.IMAGE_INVALID: Decision.IMAGE_INVALID,
    ErrorCode.OUT_OF_MEMORY: Decision.OUT_OF_MEMORY,
    ErrorCode.NOT_FINITE: Decision.NOT_FINITE,
    ErrorCode.LORA_INVALID: Decision.LORA_INVALID,
    ErrorCode.RUN_FAILED: Decision.RUN_FAILED,
}
_CODES = {decision: code for code, decision in FAILURES.items()}


class NextStep(NamedTuple):
    """How the ranks do the denoising step that follows a boundary."""

    num_parts: int = 1
    """Between which they meet, too."""
    is_skipped: bool = False
    """Whether a step cache replaces it."""


WHOLE_STEP = NextStep()


class Control:
    """One rank's end of the control channel.

    Args:
        rank: This rank; rank 0 announces and decides.
        group: A gloo group of all ranks, used for nothing else.
    """

    def __init__(self, rank: int, group: dist.ProcessGroup) -> None:
        self.decide: Callable[[], Decision] = lambda: Decision.GO_ON
        """This rank's vote at the next boundary; rank 0 replaces it."""
        self._rank = rank
        self._group = group

    def announce(self, payload: bytes = b"") -> bytes:
        """Broadcast bytes from rank 0 to every rank, and return them.

        Args:
            payload: The bytes to send, ignored on other ranks. Empty ones only keep the group from
                timing out.
        """
        size = torch.tensor([len(payload)])
        dist.broadcast(size, src=0, group=self._group)
        if not size.item():
            return b""
        content = torch.zeros(int(size.item()), dtype=torch.uint8)
        if self._rank == 0:
            content.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        dist.broadcast(content, src=0, group=self._group)
        return content.numpy().tobytes()

    def meet(self, proposal: NextStep = WHOLE_STEP) -> NextStep:
        """Agree with all ranks to continue the run, and on its next denoising step.

        Args:
            proposal: How this rank would do that step.

        Returns:
            The greatest number of parts that a rank proposes, and whether rank 0 skips the step.

        Raises:
            RunInterrupted: On every rank alike, if the run ends here.
        """
        decision, agreed = self._agree(self.decide(), proposal)
        if decision in _INTERRUPTIONS:
            raise _INTERRUPTIONS[decision]
        if decision is not Decision.GO_ON:
            raise PeerFailed(_CODES[decision])
        return agreed

    def report_failure(self, code: ErrorCode) -> None:
        """Report a failure of this rank at the next boundary of the others.

        Raises:
            RuntimeError: If the others do not reach the boundary because they wait for this rank in
                another collective. Only a restart of the group helps then.
        """
        self._agree(
            FAILURES.get(code, Decision.RUN_FAILED), WHOLE_STEP, timeout=_MEET_AFTER_FAILURE
        )

    def _agree(
        self, decision: Decision, proposal: NextStep, timeout: timedelta | None = None
    ) -> tuple[Decision, NextStep]:
        # Only rank 0 proposes to skip, so the greatest value is its decision.
        is_skipped = proposal.is_skipped and self._rank == 0
        agreed = torch.tensor([int(decision), proposal.num_parts, int(is_skipped)])
        work = dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None  # None is for ranks outside of the group
        work.wait(timeout) if timeout else work.wait()
        value, num_parts, skips = agreed.tolist()
        return Decision(value), NextStep(num_parts, bool(skips))
