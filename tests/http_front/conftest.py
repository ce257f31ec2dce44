import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.http_front.besieged import Besieged, besieged_server
from tests.http_front.full_stack import Stack, open_stack
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    # Not in tmp_path, whose path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as run_dir:
        async with ScriptedBroker(Path(run_dir)) as scripted:
            yield scripted


@pytest_asyncio.fixture
async def front(tmp_path: Path, broker: ScriptedBroker) -> AsyncIterator[Served]:
    async with serve(tmp_path, broker.addresses) as served:
        yield served


@pytest_asyncio.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(tmp_path) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def besieged_by_module() -> AsyncIterator[Besieged]:
    async with besieged_server() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def besieged(besieged_by_module: Besieged) -> Besieged:
    await besieged_by_module.reset()
    return besieged_by_module
