"""A start that is broken off while a helper process still prepares it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.running_server import START_LIMIT_S, RunningServer, until

GONE_LIMIT_S = 3.0  # left alone, the helper would take longer


@pytest_asyncio.fixture
async def preparing(tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A launcher while it has the demo model made."""
    server = RunningServer(tmp_path / "state")
    try:
        await until(lambda: server.pids("\0ranks.demo_model\0") != [], START_LIMIT_S)
        yield server
    finally:
        server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_during_the_preparations_ends_them_with_a_line(
    preparing: RunningServer, number: signal.Signals
) -> None:
    preparing.process.send_signal(number)
    assert await asyncio.to_thread(preparing.process.wait, GONE_LIMIT_S) == 0
    assert preparing.log().endswith(f"{number.name}: stopped before anything had been started\n")
    await preparing.wait_until_gone(GONE_LIMIT_S)


async def test_a_helper_process_does_not_outlive_a_killed_launcher(
    preparing: RunningServer,
) -> None:
    """Seen to fail without the call of `die_with_parent` in the helper."""
    preparing.process.kill()
    await preparing.wait_until_gone(GONE_LIMIT_S)
