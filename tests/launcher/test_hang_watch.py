"""A broker or front that stands still is replaced, but not because the launcher stood still."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import Caller, calling

pytestmark = pytest.mark.asyncio(loop_scope="module")

HUNG_AFTER_S = 3.0
HEALED_S = 15.0
MODULES = ("broker", "http_front")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChaosServer]:
    folder = tmp_path_factory.mktemp("hangs")
    async with chaos_server(folder, nproc=2, hung_after_s=HUNG_AFTER_S) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def caller(server: ChaosServer) -> AsyncIterator[Caller]:
    async with calling(server.life) as caller:
        yield caller


@pytest.mark.parametrize(("name", "module"), [("broker", "broker"), ("front", "http_front")])
async def test_a_process_that_stands_still_is_replaced(
    server: ChaosServer, caller: Caller, name: str, module: str
) -> None:
    pid = server.pid_of(module)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.life.wait_until_logged(f"{name} has shown no sign of life for 3 s", HEALED_S)
    async with asyncio.timeout(HEALED_S):
        await server.until_healthy()
        await caller.wait_for(await caller.submit(), status="Succeed", attempt=1)
    assert server.pid_of(module) != pid


async def test_a_launcher_that_stood_still_itself_ends_nothing(
    server: ChaosServer, caller: Caller
) -> None:
    pids = [server.pid_of(module) for module in MODULES]
    num_ended = server.life.log().count("no sign of life")
    server.life.process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    while time.monotonic() - stopped_at < 2 * HUNG_AFTER_S:
        # Jobs end meanwhile: only the launcher stands still.
        await caller.wait_for(await caller.submit(), status="Succeed", attempt=1)
    server.life.process.send_signal(signal.SIGCONT)
    await asyncio.sleep(HUNG_AFTER_S)  # nothing may happen, so there is nothing to await
    assert server.life.log().count("no sign of life") == num_ended
    assert [server.pid_of(module) for module in MODULES] == pids


async def test_a_server_that_stood_still_as_a_whole_ends_nothing(
    server: ChaosServer, caller: Caller
) -> None:
    pids = [server.pid_of(module) for module in MODULES]
    num_ended = server.life.log().count("no sign of life")
    everything = server.life.pids()
    for pid in everything:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2 * HUNG_AFTER_S)  # the machine stands still
    for pid in everything:
        os.kill(pid, signal.SIGCONT)
    await caller.wait_for(await caller.submit(), status="Succeed", attempt=1)
    assert server.life.log().count("no sign of life") == num_ended
    assert [server.pid_of(module) for module in MODULES] == pids
