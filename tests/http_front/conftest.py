import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from http_front.address_guard import is_allowed
from http_front.image_source import ImageSource
from tests.http_front.full_stack import Stack, open_stack
from tests.http_front.image_server import IMAGE_ADDRESS, ImageServer, Names, http_answer
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve
from tests.http_front.vectors import GOOD_PICTURE


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


@pytest_asyncio.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(tmp_path) as stack:
        yield stack


@dataclass
class Besieged:
    """A front, the one server that it may fetch images from, and two that it must never call."""

    front: Served
    broker: ScriptedBroker
    images: ImageServer
    names: Names
    private_v4: ImageServer
    private_v6: ImageServer
    dialled: list[str] = field(default_factory=list)

    def reset(self) -> None:
        self.images.answer = http_answer(GOOD_PICTURE)
        self.images.talk = None
        self.images.closes = True
        self.images.heads.clear()
        self.names.answers = {"images.example.com": [(IMAGE_ADDRESS, self.images.port)]}
        self.dialled.clear()
        self.broker.specs.clear()
        for path in self.front.stored_images():
            path.unlink()

    def assert_nothing_happened(self) -> None:
        assert not self.broker.specs
        assert not self.front.stored_images()

    def assert_no_private_call(self) -> None:
        assert not self.private_v4.heads
        assert not self.private_v6.heads
        assert set(self.dialled) <= {IMAGE_ADDRESS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def besieged_by_module(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Besieged]:
    dialled: list[str] = []

    def guard(address: str) -> bool:
        allowed = address == IMAGE_ADDRESS or is_allowed(address)
        if allowed:
            dialled.append(address)
        return allowed

    names = Names()
    async with AsyncExitStack() as stack:
        run_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="wan-"))
        broker = await stack.enter_async_context(ScriptedBroker(Path(run_dir)))
        images, v4, v6 = [
            await stack.enter_async_context(ImageServer().listen(address))
            for address in (IMAGE_ADDRESS, "127.0.0.1", "::1")
        ]
        source = ImageSource(guard=guard, resolver=names, total_limit_s=3.0)
        folder = tmp_path_factory.mktemp("front")
        front = await stack.enter_async_context(serve(folder, broker.addresses, source))
        yield Besieged(front, broker, images, names, v4, v6, dialled)


@pytest.fixture
def besieged(besieged_by_module: Besieged) -> Besieged:
    besieged_by_module.reset()
    return besieged_by_module
