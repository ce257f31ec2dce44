import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    # Not under tmp_path: its names are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as run_dir:
        async with ScriptedBroker(Path(run_dir)) as scripted:
            yield scripted


@pytest_asyncio.fixture
async def front(tmp_path: Path, broker: ScriptedBroker) -> AsyncIterator[Served]:
    async with serve(tmp_path, broker.addresses) as served:
        yield served
