"""The launcher's side of its child processes: start, hear, signal and reap them."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable

import msgspec

_PR_SET_CHILD_SUBREAPER = 36


class Reaper:
    """Collects every child that ends, so that `exited` tells of it and no zombie stays.

    As a subreaper it also collects what children leave behind; that is how the ranks, forked by a
    process that then ends, become children of the launcher.
    """

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def start(self) -> None:
        """Reap from now on; call it in the main thread, inside the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def exited(self, pid: int) -> asyncio.Future[int]:
        """Return a future of the exit code of a child; minus the signal if one ended it."""
        if pid not in self._exits:
            self._exits[pid] = asyncio.get_running_loop().create_future()
        return self._exits[pid]

    def forget(self, pid: int) -> None:
        """Drop what is known of a child that has ended."""
        self._exits.pop(pid, None)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            future = self.exited(pid)
            if not future.done():
                future.set_result(os.waitstatus_to_exitcode(status))


class Child:
    """A process of this project, started with its config as JSON and heard on a pipe."""

    def __init__(self, reaper: Reaper, name: str, module: str) -> None:
        self.name = name
        self._reaper = reaper
        self._module = module
        self._lines: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        self.pid = 0

    async def start(
        self, config: Callable[[int], msgspec.Struct], keep_fds: Iterable[int] = ()
    ) -> None:
        """Start the process.

        Args:
            config: Makes the config when told the write end of the ready pipe.
            keep_fds: Further descriptors that the process inherits.
        """
        read_end, write_end = os.pipe()
        inherited = [write_end, *keep_fds]
        try:
            for fd in inherited:
                os.set_inheritable(fd, True)
            argument = msgspec.json.encode(config(write_end)).decode()
            # A process group of its own keeps Ctrl-C at a terminal for the launcher alone.
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-m", self._module, argument],
                os.environ,
                setpgroup=0,
            )
        finally:
            for fd in keep_fds:
                os.set_inheritable(fd, False)
            os.close(write_end)
        self._lines = asyncio.StreamReader()
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(_not_none(self._lines)), os.fdopen(read_end, "rb")
        )

    @property
    def exited(self) -> asyncio.Future[int]:
        """The exit code, once the process has ended."""
        return self._reaper.exited(self.pid)

    async def lines(self) -> AsyncIterator[str]:
        """Yield the lines that the process, and what it forked, report until the last has ended."""
        reader = _not_none(self._lines)
        while line := await reader.readline():
            yield line.decode(errors="replace").rstrip("\n")

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()
        self._reaper.forget(self.pid)


def signal_tree(pid: int, signal_number: int) -> None:
    """Send a signal to a process group that the launcher's child leads, if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal_number)


async def end_process(reaper: Reaper, pid: int, grace_s: float) -> int:
    """Ask a child to end with SIGTERM, end it with SIGKILL after `grace_s`; return its exit code.

    A process stuck in the kernel cannot be ended; the caller's own time limit covers that.
    """
    exited = reaper.exited(pid)
    if not exited.done():
        signal_tree(pid, signal.SIGTERM)
        await asyncio.wait([exited], timeout=grace_s)
    signal_tree(pid, signal.SIGKILL)
    return await exited


def _not_none(reader: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if reader is None:
        raise RuntimeError("the process has not been started")
    return reader
