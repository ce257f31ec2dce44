"""Ends every process that a test run started, when the run ends: also if it is killed.

A killed test run cannot clean up, and a server started through a shell does not end with its
parent. So the run marks its environment, which all its processes inherit, and starts a guard. The
guard waits for the run to end and kills whatever carries the mark.
"""

import contextlib
import os
import secrets
import select
import signal
import sys
import time
from pathlib import Path

VARIABLE = "TEST_SESSION"
KILL_LIMIT_S = 10.0
_POLL_S = 0.05


def start_guard() -> None:
    """Mark this process's environment and start the guard; does nothing outside of Linux."""
    if sys.platform != "linux" or VARIABLE in os.environ:
        return
    mark = secrets.token_hex(8)
    guard = [sys.executable, __file__, str(os.getpid()), mark]
    # In its own session, so that the signal that ends the run does not end the guard.
    os.posix_spawn(sys.executable, guard, os.environ, setsid=True)
    os.environ[VARIABLE] = mark


def marked_pids(mark: str) -> list[int]:
    entry = f"{VARIABLE}={mark}".encode()
    pids = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if folder.name.isdigit() and entry in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return pids


def main() -> None:
    pid, mark = int(sys.argv[1]), sys.argv[2]
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    deadline_s = time.monotonic() + KILL_LIMIT_S
    while (pids := marked_pids(mark)) and time.monotonic() < deadline_s:
        for marked in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(marked, signal.SIGKILL)
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main()
