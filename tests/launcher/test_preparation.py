"""A start that is interrupted while a helper process still runs."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.running_server import START_LIMIT_S, RunningServer, until

GONE_LIMIT_S = 3.0  # the helper itself takes longer


@pytest_asyncio.fixture
async def preparing(tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A launcher whose helper process builds the demo model."""
    server = RunningServer(tmp_path / "state")
    try:
        await until(lambda: server.pids("\0ranks.demo.build\0") != [], START_LIMIT_S)
        yield server
    finally:
        server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_before_any_process_runs_ends_the_launcher(
    preparing: RunningServer, number: signal.Signals
) -> None:
    preparing.process.send_signal(number)
    assert await asyncio.to_thread(preparing.process.wait, GONE_LIMIT_S) == 0
    assert preparing.log().endswith(f"{number.name}: stopped before any process was started\n")
    await preparing.wait_until_gone(GONE_LIMIT_S)


async def test_a_helper_process_does_not_outlive_a_killed_launcher(
    preparing: RunningServer,
) -> None:
    preparing.process.kill()
    await preparing.wait_until_gone(GONE_LIMIT_S)
