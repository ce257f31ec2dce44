"""Starts ranks as the launcher does and waits until they are ready.

It fails if importing what ranks need makes a forked rank unable to use its device.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import msgspec

from ranks.config import DeviceKind
from tests.rehearsal.rank_processes import make_demo_model, rank_config

WORLD_SIZE = 2
LIMIT_S = 240.0
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Return 0 if every rank becomes ready."""
    kind = cast(DeviceKind, sys.argv[1])
    # Ranks become this process's children, as they become the launcher's.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name)
        config = rank_config(kind, WORLD_SIZE, folder, make_demo_model(folder))
        read_fd, write_fd = os.pipe()
        config = msgspec.structs.replace(config, ready_fd=write_fd)
        command = [sys.executable, "-m", "ranks", msgspec.json.encode(config).decode()]
        os.set_inheritable(write_fd, True)
        starter = subprocess.Popen(command, close_fds=False)
        os.close(write_fd)
        lines = _listen(read_fd)
        starter.wait()
    for line in lines:
        sys.stdout.write(f"  {line}\n")
    return 0 if sum(line.startswith("ready ") for line in lines) == WORLD_SIZE else 1


def _listen(fd: int) -> list[str]:
    """Return what the ranks report until all are ready, or one has failed; then end them."""
    lines: list[str] = []
    text = b""
    deadline = time.monotonic() + LIMIT_S
    while not _is_decided(lines) and select.select([fd], [], [], deadline - time.monotonic())[0]:
        if not (read := os.read(fd, 65536)):
            break
        text += read
        lines = text.decode().splitlines()
    for line in lines:
        if line.startswith("born "):
            _end(int(line.split()[2]))
    return lines


def _is_decided(lines: list[str]) -> bool:
    num_ready = sum(line.startswith("ready ") for line in lines)
    return num_ready == WORLD_SIZE or any(line.startswith("failed ") for line in lines)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


if __name__ == "__main__":
    sys.exit(main())
