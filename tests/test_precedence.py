"""A front that goes first, and what it starts."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.chaos.server import chaos_server
from tests.precedence import going_first, may_use_realtime_priority

pytestmark = pytest.mark.skipif(
    not may_use_realtime_priority(), reason="this user may not have real-time priority"
)
SHOW = "import os; print(os.sched_getscheduler(0))"


async def test_a_front_goes_first_if_told_so_and_nothing_else_does(tmp_path: Path) -> None:
    """Seen to fail with the option not handed on to the front."""
    async with chaos_server(tmp_path, flags=["--realtime-front"]) as server:
        policies = {pid: os.sched_getscheduler(pid) for pid in server.life.pids()}
        front = server.pid_of("http_front")
    assert front is not None
    assert policies.pop(front) == os.SCHED_RR | os.SCHED_RESET_ON_FORK
    assert set(policies.values()) == {os.SCHED_OTHER}


def test_what_such_a_thread_starts_has_no_priority() -> None:
    """Children decode pictures of strangers. Seen to fail without the flag that says so."""
    seen: list[int] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
        with going_first():
            thread.start()
            thread.join()
            child = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, check=True)
        seen.append(int(child.stdout))

    # The flag would stay with the thread of all tests, where this user is not root.
    other = threading.Thread(target=look)
    other.start()
    other.join()
    assert seen == [os.SCHED_OTHER, os.SCHED_OTHER]
