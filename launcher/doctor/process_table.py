"""What Linux tells of processes: who listens on a port, what an earlier server has left behind."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_LISTENING = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_MODULES = ("broker", "http_front", "ranks", "launcher.ray.ray_fleet")
"""What the launcher starts: `python -m MODULE CONFIG`."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process that runs now."""

    pid: int
    parent_pid: int
    words: list[str]
    """Its command line."""

    @property
    def shown(self) -> str:
        """Its pid and the beginning of its command line."""
        return f"pid {self.pid} ({' '.join(self.words)[:60].rstrip()})"


class _Config(msgspec.Struct):
    """The one field that all configs of the launcher's processes have."""

    parent_pid: int


def processes() -> Iterator[Process]:
    """Yield every process that has a command line."""
    for entry in _PROC.iterdir():
        # It may end while we look.
        with suppress(OSError):
            if entry.name.isdigit() and (words := _words(entry)):
                yield Process(pid=int(entry.name), parent_pid=_parent_pid(entry), words=words)


def listeners(port: int) -> list[Process]:
    """Return who holds a socket that listens on a TCP port, as far as this user may see it."""
    sockets = {inode for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    return [process for process in processes() if sockets & _sockets_of(process.pid)]


def left_behind() -> list[Process]:
    """Return the processes of a server whose launcher has ended without them."""
    ours = {
        process.pid: process
        for process in processes()
        if _launcher_of(process) is not None and _shares_our_pids(process.pid)
    }
    return [
        process
        for process in ours.values()
        # A rank is for a moment the child of the process that forks it.
        if process.parent_pid != _launcher_of(process) and process.parent_pid not in ours
    ]


def _words(entry: Path) -> list[str]:
    text = (entry / "cmdline").read_bytes().decode(errors="replace")
    return text.rstrip("\0").split("\0") if text else []


def _parent_pid(entry: Path) -> int:
    # The name before it, in parentheses, may hold anything.
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _launcher_of(process: Process) -> int | None:
    """Return who has started a process, by its config; None if it is no part of a server."""
    match process.words:
        case [_, "-m", module, config] if module in _MODULES:
            with suppress(msgspec.DecodeError):
                return msgspec.json.decode(config, type=_Config).parent_pid
    return None


def _shares_our_pids(pid: int) -> bool:
    """Return whether a process counts pids as we do: in a container, its launcher's is another."""
    try:
        return os.readlink(_PROC / str(pid) / "ns/pid") == os.readlink(_PROC / "self/ns/pid")
    except OSError:  # it has ended, or is another user's
        return False


def _listening(table: str, port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on a port."""
    with suppress(OSError):  # a kernel without IPv6 has no such table
        for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets; none where another user's are kept from us."""
    found = set()
    with suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if socket := _SOCKET.fullmatch(os.readlink(descriptor)):
                    found.add(socket[1])
    return found
