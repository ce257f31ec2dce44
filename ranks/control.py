"""The control channel of a group: jobs and control words, over gloo, beside the tensors' traffic.

Exactly two operations exist, and every rank is always about to do the same one: `announce` while
idle, `meet` while a run is on. So a rank that fails anywhere in a run can tell the others simply by
meeting them early.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum

import torch
import torch.distributed as dist

from broker.wire.protocol import ErrorCode
from ranks.errors import GroupStopping, PeerFailed, RunCancelled, RunPreempted

ANNOUNCE_EVERY_S = 5.0
"""Idle ranks hear something this often, since a broadcast must not outlast the group's timeout."""

_MEET_AFTER_FAILURE = timedelta(seconds=30)


class Decision(IntEnum):
    """What is decided at a boundary; of several, the greatest holds."""

    GO_ON = 0
    PREEMPT = 1
    CANCEL = 2
    STOP = 3
    SAVE_FAILED = 4
    IMAGE_INVALID = 5
    OUT_OF_MEMORY = 6
    RUN_FAILED = 7


_LEFT = {
    Decision.PREEMPT: RunPreempted,
    Decision.CANCEL: RunCancelled,
    Decision.STOP: GroupStopping,
}
FAILURES = {
    ErrorCode.SAVE_FAILED: Decision.SAVE_FAILED,
    ErrorCode.IMAGE_INVALID: Decision.IMAGE_INVALID,
    ErrorCode.OUT_OF_MEMORY: Decision.OUT_OF_MEMORY,
    ErrorCode.RUN_FAILED: Decision.RUN_FAILED,
}
_CODES = {word: code for code, word in FAILURES.items()}


class Control:
    """One rank's end of the control channel.

    Args:
        rank: This rank; rank 0 announces and decides.
        group: A gloo group of all ranks that nothing else uses.
    """

    def __init__(self, rank: int, group: dist.ProcessGroup) -> None:
        self.decide: Callable[[], Decision] = lambda: Decision.GO_ON
        """What this rank wants of the next boundary; rank 0 replaces it."""
        self._rank = rank
        self._group = group

    def announce(self, payload: bytes = b"") -> bytes:
        """Hand bytes from rank 0 to every rank; empty ones only pass the time.

        Args:
            payload: What rank 0 has to say; ignored on other ranks.
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

    def meet(self) -> None:
        """Agree with all ranks to go on with the run.

        Raises:
            RunLeft: On every rank alike, if the run is over.
        """
        word = self._agree(self.decide())
        if word in _LEFT:
            raise _LEFT[word]
        if word is not Decision.GO_ON:
            raise PeerFailed(_CODES[word])

    def report_failure(self, code: ErrorCode) -> None:
        """Meet the other ranks with bad news, wherever in the run they are now.

        Raises:
            RuntimeError: If they do not come, because they wait for this rank in another
                collective: then only a restart of the group helps.
        """
        self._agree(FAILURES.get(code, Decision.RUN_FAILED), _MEET_AFTER_FAILURE)

    def _agree(self, word: Decision, timeout: timedelta | None = None) -> Decision:
        agreed = torch.tensor([int(word)])
        work = dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None  # None is for ranks outside of the group
        work.wait(timeout) if timeout else work.wait()
        return Decision(int(agreed.item()))
