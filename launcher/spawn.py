"""The launcher's side of its child processes: start, read, signal and reap them."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

import msgspec

from broker.process.cgroup import num_oom_kills, read_limits
from broker.process.child import UNFIT_EXIT_CODE
from broker.process.import_path import python

Part = TypeVar("Part")

_PR_SET_CHILD_SUBREAPER = 36
_UNCLAIMED_EXIT_S = 60.0
_KILL_LIMIT_S = 30.0
_KILL_POLL_S = 0.01


class Reaper:
    """Reaps every child that ends and makes its exit code available.

    The launcher is a subreaper: when a child ends, its own children become the launcher's. That is
    how it becomes the parent of ranks forked by a starter process.
    """

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._num_oom_kills = num_oom_kills()
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def start(self) -> None:
        """Start reaping; call it in the main thread, inside the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def exited(self, pid: int) -> asyncio.Future[int]:
        """Return a future of a child's exit code; negative: the signal that ended it."""
        if pid not in self._exits:
            self._exits[pid] = asyncio.get_running_loop().create_future()
        return self._exits[pid]

    def forget(self, pid: int) -> None:
        """Drop a pid, which the system may give to another process."""
        self._exits.pop(pid, None)

    def describe_exit(self, code: int) -> str:
        """Describe how a child ended; call it once per exit, as it ends."""
        num_before, self._num_oom_kills = self._num_oom_kills, num_oom_kills()
        if code == -signal.SIGKILL and self._num_oom_kills > num_before:
            limit = read_limits().memory_bytes
            room = "memory" if limit is None else f"the container's {limit / (1 << 30):.1f} GiB"
            return f"was killed by the kernel, which had run out of {room}"
        return describe_exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._exits:
                # A rank that ended before it was reported, or an orphan that nothing waits for.
                asyncio.get_running_loop().call_later(_UNCLAIMED_EXIT_S, self.forget, pid)
            future = self.exited(pid)
            if not future.done():
                future.set_result(os.waitstatus_to_exitcode(status))


class Child:
    """A process of this project: it gets its config as JSON and reports on a pipe."""

    def __init__(self, reaper: Reaper, name: str, module: str) -> None:
        self.name = name
        self._reaper = reaper
        self._module = module
        self._lines: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._exited: asyncio.Future[int] | None = None
        self.pid: int | None = None
        """None while no process runs."""

    async def start(
        self, config: Callable[[int], msgspec.Struct], keep_fds: Iterable[int] = ()
    ) -> int:
        """Start the process as the leader of a new process group; return its pid.

        Args:
            config: Makes the config, given the write end of the pipe.
            keep_fds: Further descriptors that the process inherits.
        """
        read_end, write_end = os.pipe()
        inherited = [write_end, *keep_fds]
        try:
            for fd in inherited:
                os.set_inheritable(fd, True)
            argument = msgspec.json.encode(config(write_end)).decode()
            # In its own process group, it does not get the Ctrl-C of the launcher's terminal.
            self.pid = os.posix_spawn(  # noqa: ASYNC221 (it returns at once)
                sys.executable,
                python(self._module, argument),
                os.environ,
                setpgroup=0,
            )
            self._reaper.forget(self.pid)
            self._exited = self._reaper.exited(self.pid)
        except OSError:
            os.close(read_end)
            raise
        finally:
            for fd in keep_fds:
                os.set_inheritable(fd, False)
            os.close(write_end)
        self._lines = lines = asyncio.StreamReader()
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(read_end, "rb")
        )
        return self.pid

    @property
    def exited(self) -> asyncio.Future[int]:
        return _started(self._exited)

    @property
    def is_unfit(self) -> bool:
        """Whether the process has ended because files must be changed before it can run."""
        exited = self._exited
        return exited is not None and exited.done() and exited.result() == UNFIT_EXIT_CODE

    async def ready(self) -> bool:
        async for line in self.lines():
            if line == "ready":
                return True
        return False

    async def lines(self) -> AsyncIterator[str]:
        """Yield the lines that the process and its forks report, until all have ended."""
        while line := await _started(self._lines).readline():
            yield line.decode(errors="replace").rstrip("\n")

    def close(self) -> None:
        """Forget a process that has ended: its pid may soon belong to another."""
        if self._transport is not None:
            self._transport.close()
        if self.pid is not None:
            self._reaper.forget(self.pid)
            self.pid = None


class UnkillableError(Exception):
    """Raised when a process survives SIGKILL, which only the operator can resolve."""


async def end_process(child: Child, grace_s: float) -> None:
    """Send SIGTERM; once the child exits, or after `grace_s`, kill its whole process group."""
    pid = child.pid
    if pid is None:
        return
    if not child.exited.done():
        os.kill(pid, signal.SIGTERM)
        await asyncio.wait([child.exited], timeout=grace_s)
    await kill_tree(pid, _KILL_LIMIT_S)


async def kill_tree(leader_pid: int, limit_s: float) -> None:
    """Kill every process in a child's process group, and wait until all are reaped.

    Raises:
        UnkillableError: If one is still there after `limit_s`, stuck in the kernel.
    """
    deadline = asyncio.get_running_loop().time() + limit_s
    while _kill(leader_pid):
        if asyncio.get_running_loop().time() > deadline:
            raise UnkillableError(
                f"processes of process group {leader_pid} survive SIGKILL for {limit_s:.0f} s; "
                "a device may hang: check or reset it, then start again"
            )
        await asyncio.sleep(_KILL_POLL_S)


def _kill(leader_pid: int) -> bool:
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def describe_exit(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _started(part: Part | None) -> Part:
    assert part is not None, "the process has not been started"
    return part
