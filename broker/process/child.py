"""What every process started by the launcher does for it."""

import asyncio
import ctypes
import faulthandler
import gc
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from broker.process.log import LogFormat, configure_logging

_PR_SET_PDEATHSIG = 1
ORPHANED_EXIT_CODE = 77
LIFE_SIGN_EVERY_S = 1.0
IN_USE_EXIT_CODE = 75
"""Exit code of a process whose files another one uses: another start does not help meanwhile."""
UNFIT_EXIT_CODE = 78
"""Exit code of a process, or of the launcher, that cannot run before its files are changed."""


def begin(process: str, parent_pid: int, log_format: LogFormat) -> None:
    """Set up logging, end with the launcher, dump all stacks on SIGUSR1, ignore SIGHUP.

    If the launcher, `parent_pid`, is no longer the parent, this process ends at once.
    """
    configure_logging(process, log_format)
    die_with_parent(parent_pid)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # A closed terminal ends nothing; only the launcher ends processes.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ends.

    The kernel sends nothing if the parent ended before the call, hence the check afterwards. The
    signal is SIGKILL because that also ends a stopped process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(ORPHANED_EXIT_CODE)


def allow_many_files() -> None:
    # libzmq ends the process when it cannot accept a connection.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def use_realtime_priority() -> None:
    """Give this thread, but none that it starts, real-time priority.

    Raises:
        PermissionError: Without CAP_SYS_NICE, if RLIMIT_RTPRIO is 0.
    """
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


@contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector from the objects that imports make while the context is open.

    It finds no garbage among them, but searching them again and again takes a third of the time
    that torch, diffusers and transformers need. After a fork, a collection would also copy every
    page that it touches.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def report(fd: int | None, line: str) -> None:
    """Write a line to the launcher's pipe, if there is one."""
    if fd is not None:
        os.write(fd, f"{line}\n".encode())


async def send_life_signs(fd: int | None) -> None:
    """Write to the launcher's pipe every second, for as long as the event loop runs."""
    if fd is not None:
        os.set_blocking(fd, False)
    while True:
        # The launcher may have been stopped for hours, so that the pipe is full.
        with suppress(OSError):
            report(fd, "alive")
        await asyncio.sleep(LIFE_SIGN_EVERY_S)
