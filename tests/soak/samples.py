"""What the soak measures of each process and each state directory."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.running_server import RunningServer

_ROLES = {
    b"broker": "broker",
    b"http_front": "front",
    b"http_front.images.decode_worker": "image worker",
    b"ranks": "rank",
    b"tests.chaos.launch": "launcher",
}
"""By Python's `-m`. Stub ranks are missing: they are part of the test."""
_ANONYMOUS = re.compile(rb"^Anonymous: +(\d+) kB$", re.MULTILINE)


class Sample(NamedTuple):
    """One process at one moment."""

    memory_bytes: int
    """Anonymous memory, whether shared or not. The private part alone grows in a forked rank
    whenever another rank writes to a page that they shared."""
    num_descriptors: int
    num_threads: int


class Watched(NamedTuple):
    """A process; with a new pid it is another one."""

    server: str
    role: str
    pid: int


class Samples:
    """The measurements of a run, each with its time."""

    def __init__(self) -> None:
        self.processes: dict[Watched, list[tuple[float, Sample]]] = defaultdict(list)
        self.files: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.journal: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def take(self, at_s: float, name: str, life: RunningServer, state_dir: Path | None) -> None:
        """Measure the processes of a launcher, and its state directory unless it is another's."""
        for watched in _processes(name, life):
            with suppress(OSError):  # it has ended
                self.processes[watched].append((at_s, _sample(watched.pid)))
        if state_dir is not None:
            files = [path for path in state_dir.rglob("*") if path.is_file()]
            self.files[name].append((at_s, len(files)))
            journal = [path for path in files if path.name.startswith("jobs.sqlite3")]
            self.journal[name].append((at_s, sum(map(_size, journal))))


def _processes(name: str, life: RunningServer) -> Iterator[Watched]:
    for pid in life.pids():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            module = words[words.index(b"-m") + 1] if b"-m" in words else b""
            if (role := _ROLES.get(module)) is not None:
                yield Watched(name, role, pid)


def _sample(pid: int) -> Sample:
    folder = Path(f"/proc/{pid}")
    kilobytes = _ANONYMOUS.findall((folder / "smaps_rollup").read_bytes())
    return Sample(
        memory_bytes=1024 * sum(map(int, kilobytes)),
        num_descriptors=len(os.listdir(folder / "fd")),
        num_threads=len(os.listdir(folder / "task")),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
