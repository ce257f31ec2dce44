"""`python -m tests.http_front.front_with_names JSON`: the front of a whole server under test.

It differs from the product in how it fetches images: a file gives the addresses of host names, one
address of this machine counts as public, and a file records the addresses it connects to.
"""

import asyncio
import socket
import sys
from pathlib import Path

import msgspec
from aiohttp.abc import ResolveResult

from broker.process.child import allow_many_files, begin, report, send_life_signs
from http_front.app import create_app
from http_front.config import FrontConfig
from http_front.http_server import create_runner, start_serving
from http_front.images.address_guard import may_connect_to
from http_front.images.fetch import ImageSource
from tests.chaos.stub_settings import StubSettings
from tests.http_front.images.image_server import IMAGE_ADDRESS, Names
from tests.http_front.loop_watch import LoopWatch

FETCH_LIMIT_S = 3.0


class NamesFolder:
    """A folder that a test shares with the front: host names, and recorded connections."""

    def __init__(self, folder: Path) -> None:
        self._names = folder / "names.json"
        self._connected = folder / "connected"

    def set(self, names: dict[str, list[tuple[str, int]]]) -> None:
        """Set the addresses of names. They are used in order; the last one is repeated."""
        partial = self._names.with_suffix(".new")
        partial.write_bytes(msgspec.json.encode(names))
        partial.rename(self._names)
        self._connected.write_text("")

    def read(self) -> dict[str, list[tuple[str, int]]]:
        return msgspec.json.decode(self._names.read_bytes(), type=dict[str, list[tuple[str, int]]])

    def record(self, address: str) -> None:
        """Record a connection to an address."""
        with self._connected.open("a") as file:
            file.write(f"{address}\n")

    def connected(self) -> list[str]:
        """Return the addresses recorded since the names were set."""
        return self._connected.read_text().split()


class NamesFromFolder(Names):
    """Resolves names from the folder."""

    def __init__(self, folder: NamesFolder) -> None:
        super().__init__()
        self._folder = folder
        self._last_read: dict[str, list[tuple[str, int]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        names = self._folder.read()
        if names != self._last_read:
            self._last_read = names
            self.answers = {name: [*answers] for name, answers in names.items()}
        return await super().resolve(host, port, family)


async def serve(config: FrontConfig) -> None:
    """Serve requests until the process is killed."""
    folder = NamesFolder(Path(StubSettings.inherited().folder))

    def guard(address: str) -> bool:
        allowed = address == IMAGE_ADDRESS or may_connect_to(address)
        if allowed:
            folder.record(address)
        return allowed

    resolver = NamesFromFolder(folder)
    source = ImageSource(guard=guard, resolver=resolver, total_limit_s=FETCH_LIMIT_S)
    runner = create_runner(create_app(config, source))
    await runner.setup()
    await start_serving(runner, socket.socket(fileno=config.listen_fd))
    LoopWatch(Path(StubSettings.inherited().folder)).begin()
    report(config.ready_fd, "ready")
    await send_life_signs(config.ready_fd)


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=FrontConfig)
    begin("front", config.parent_pid, config.log_format)
    allow_many_files()
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
