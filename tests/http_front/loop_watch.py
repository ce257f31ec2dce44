"""Measures how long one callback keeps an event loop: the time that every other client waits."""

import asyncio
import time
from pathlib import Path

import msgspec

MAX_STRETCH_S = 0.020


class Stretch(msgspec.Struct, frozen=True):
    """A callback and the processor time it took, which other processes do not prolong."""

    processor_s: float
    callback: str


class LoopWatch:
    """The longest callback of an event loop, in a file that a test shares with the front."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "longest.json"

    def begin(self) -> None:
        """Watch the loop of this process from now on."""
        run = asyncio.Handle._run
        longest_s = 0.0

        def watched_run(handle: asyncio.Handle) -> None:
            nonlocal longest_s
            name = repr(handle)
            started_s = time.thread_time()
            run(handle)
            taken_s = time.thread_time() - started_s
            if taken_s > longest_s:
                longest_s = taken_s
                self._path.write_bytes(msgspec.json.encode(Stretch(taken_s, name)))

        asyncio.Handle._run = watched_run  # type: ignore[assignment]

    def longest(self) -> Stretch:
        return msgspec.json.decode(self._path.read_bytes(), type=Stretch)
