"""`python -m tests.http_front.front_with_names JSON`: the front of a whole server under test.

It is the product's but for its fetching of images: names lead where a file says, one
address of this machine counts as public, and a file tells which addresses it dials.
"""

import asyncio
import socket
import sys
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.abc import ResolveResult

from broker.process.child import allow_many_files, begin, report
from http_front.app import create_app
from http_front.config import FrontConfig
from http_front.http_server import create_runner
from http_front.images.address_guard import may_connect_to
from http_front.images.fetch import ImageSource
from tests.chaos.stub_settings import StubSettings
from tests.http_front.images.image_server import IMAGE_ADDRESS, Names

FETCH_LIMIT_S = 3.0


class GuardedHttp:
    """The folder in which a test and the front tell each other of names and calls."""

    def __init__(self, folder: Path) -> None:
        self._names = folder / "names.json"
        self._dialled = folder / "dialled"

    def lead(self, names: dict[str, list[tuple[str, int]]]) -> None:
        """Say where names lead: a list is used up but for its last."""
        partial = self._names.with_suffix(".new")
        partial.write_bytes(msgspec.json.encode(names))
        partial.rename(self._names)
        self._dialled.write_text("")

    def names(self) -> dict[str, list[tuple[str, int]]]:
        """Return where names lead now."""
        return msgspec.json.decode(self._names.read_bytes(), type=dict[str, list[tuple[str, int]]])

    def note(self, address: str) -> None:
        """Write down that an address is dialled."""
        with self._dialled.open("a") as file:
            file.write(f"{address}\n")

    def dialled(self) -> list[str]:
        """Return the addresses that have been dialled since the names were laid out."""
        return self._dialled.read_text().split()


class LaidOutNames(Names):
    """Looks names up in the folder."""

    def __init__(self, outside: GuardedHttp) -> None:
        super().__init__()
        self._outside = outside
        self._laid_out: dict[str, list[tuple[str, int]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the next address of a name."""
        laid_out = self._outside.names()
        if laid_out != self._laid_out:
            self._laid_out = laid_out
            self.answers = {name: [*answers] for name, answers in laid_out.items()}
        return await super().resolve(host, port, family)


async def serve(config: FrontConfig) -> None:
    """Answer requests until the process is ended."""
    outside = GuardedHttp(Path(StubSettings.inherited().folder))

    def guard(address: str) -> bool:
        allowed = address == IMAGE_ADDRESS or may_connect_to(address)
        if allowed:
            outside.note(address)
        return allowed

    source = ImageSource(guard=guard, resolver=LaidOutNames(outside), total_limit_s=FETCH_LIMIT_S)
    runner = create_runner(create_app(config, source))
    await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=config.listen_fd)).start()
    report(config.ready_fd, "ready")
    await asyncio.Event().wait()


def main() -> None:
    """Serve."""
    config = msgspec.json.decode(sys.argv[1], type=FrontConfig)
    begin("front", config.parent_pid, config.log_format)
    allow_many_files()
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
