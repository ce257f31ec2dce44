"""The most private host memory that a process holds while something runs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

EVERY_S = 0.005
_ANONYMOUS = re.compile(rb"^RssAnon:\s+(\d+) kB$", re.MULTILINE)


@dataclass
class HostMemory:
    """In bytes. Pages of files that are mapped do not count: all ranks share them."""

    before: int
    peak: int


@contextmanager
def watch_host_memory() -> Iterator[HostMemory]:
    """Look again and again; what is held for less than five milliseconds may be missed."""
    now = _private_bytes()
    memory, is_over = HostMemory(before=now, peak=now), Event()

    def look() -> None:
        while not is_over.wait(EVERY_S):
            memory.peak = max(memory.peak, _private_bytes())

    watcher = Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        is_over.set()
        watcher.join()


def _private_bytes() -> int:
    found = _ANONYMOUS.search(Path("/proc/self/status").read_bytes())
    assert found is not None
    return int(found[1]) * 1024
