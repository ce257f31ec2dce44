"""A front with real-time priority, and the processes that it starts."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.chaos.server import chaos_server
from tests.realtime_front import may_use_realtime_priority, realtime_priority

pytestmark = pytest.mark.skipif(
    not may_use_realtime_priority(), reason="this user may not have real-time priority"
)
SHOW = "import os; print(os.sched_getscheduler(0))"


async def test_only_the_front_gets_real_time_priority(tmp_path: Path) -> None:
    async with chaos_server(tmp_path, flags=["--realtime-front"]) as server:
        policies = {pid: os.sched_getscheduler(pid) for pid in server.life.pids()}
        front = server.pid_of("http_front")
    assert front is not None
    assert policies.pop(front) == os.SCHED_RR | os.SCHED_RESET_ON_FORK
    assert set(policies.values()) == {os.SCHED_OTHER}


def test_what_a_real_time_thread_starts_has_no_priority() -> None:
    """The front's children decode untrusted images."""
    policies: list[int] = []

    def collect_policies() -> None:
        thread = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
        with realtime_priority():
            thread.start()
            thread.join()
            child = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, check=True)
        policies.append(int(child.stdout))

    # In a thread of its own: without root, the flag would stay set on the main thread.
    other = threading.Thread(target=collect_policies)
    other.start()
    other.join()
    assert policies == [os.SCHED_OTHER, os.SCHED_OTHER]
