"""Processes, from `/proc`: which listen on a port, and which an earlier server has left."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_LISTENING = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_MODULES = ("broker", "http_front", "ranks", "launcher.ray.ray_groups")
"""The modules that the launcher starts, as `python -m MODULE CONFIG`."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A running process."""

    pid: int
    parent_pid: int
    words: list[str]
    """The command line."""

    @property
    def shown(self) -> str:
        return f"pid {self.pid} ({' '.join(self.words)[:60].rstrip()})"


class _Config(msgspec.Struct):
    """The field that all configs of the launcher's processes share."""

    parent_pid: int


def processes() -> Iterator[Process]:
    for entry in _PROC.iterdir():
        # A process may end while it is read.
        with suppress(OSError):
            if entry.name.isdigit() and (words := _words(entry)):
                yield Process(pid=int(entry.name), parent_pid=_parent_pid(entry), words=words)


def listeners(port: int) -> list[Process]:
    """Return the processes that listen on a TCP port, as far as this user may see them."""
    sockets = {inode for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    return [process for process in processes() if sockets & _sockets_of(process.pid)]


def left_behind() -> list[Process]:
    candidates = {
        process.pid: process
        for process in processes()
        if _launcher_of(process) is not None and _shares_our_pids(process.pid)
    }
    return [
        process
        for process in candidates.values()
        # A new rank is briefly the child of the starter process that forks it.
        if process.parent_pid != _launcher_of(process) and process.parent_pid not in candidates
    ]


def _words(entry: Path) -> list[str]:
    text = (entry / "cmdline").read_bytes().decode(errors="replace")
    return text.rstrip("\0").split("\0") if text else []


def _parent_pid(entry: Path) -> int:
    # The name before it, in parentheses, may contain spaces and parentheses.
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _launcher_of(process: Process) -> int | None:
    match process.words:
        case [*_, "-m", module, config] if module in _MODULES:
            with suppress(msgspec.DecodeError):
                return msgspec.json.decode(config, type=_Config).parent_pid
    return None


def _shares_our_pids(pid: int) -> bool:
    # The pids inside a container mean other processes here.
    try:
        return os.readlink(_PROC / str(pid) / "ns/pid") == os.readlink(_PROC / "self/ns/pid")
    except OSError:  # it has ended, or belongs to another user
        return False


def _listening(table: str, port: int) -> Iterator[str]:
    with suppress(OSError):  # a kernel without IPv6 has no tcp6
        for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets; empty if this user may not see them."""
    inodes = set()
    with suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if socket := _SOCKET.fullmatch(os.readlink(descriptor)):
                    inodes.add(socket[1])
    return inodes
