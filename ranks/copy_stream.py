"""Copies from host memory beside the kernels of a device."""

from typing import Any

import torch

CopyEvent = Any
"""The end of a copy; None on the CPU, where a copy has ended when its call returns."""


class CopyStream:
    """Copies from host memory beside the kernels of the current stream.

    Args:
        runtime: `torch.cuda` or `torch.npu`; None for plain copies on the CPU.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._stream: Any = None if runtime is None else runtime.Stream()

    def start(self, target: torch.Tensor, source: torch.Tensor) -> CopyEvent:
        """Begin a copy, once the kernels that have been launched no longer use its target."""
        if self._runtime is None:
            target.copy_(source)
            return None
        self._stream.wait_stream(self._runtime.current_stream())
        with self._runtime.stream(self._stream):
            target.copy_(source, non_blocking=True)
            event = self._runtime.Event()
            event.record(self._stream)
        return event

    def join(self, event: CopyEvent) -> None:
        """Let the kernels that are launched from now on wait for a copy; the host goes on."""
        if event is not None:
            self._runtime.current_stream().wait_event(event)

    def finish(self) -> None:
        """Let them wait for all copies: the memory of a target may be given out again then."""
        if self._runtime is not None:
            self._runtime.current_stream().wait_stream(self._stream)
