"""A whole server without ranks, with API keys, surrounded by image servers.

The server may fetch images from one of them. The others listen on loopback and must never get a
connection.
"""

import contextlib
import os
import resource
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from broker.wire.sockets import Addresses
from http_front.access.keys import ApiKey, Limits, hash_key, make_key, write_keys
from http_front.config import FrontConfig
from tests.chaos.server import ChaosServer, chaos_server
from tests.http_front.front_with_names import NamesFolder
from tests.http_front.images.image_server import IMAGE_ADDRESS, ImageServer, http_answer
from tests.http_front.loop_watch import MAX_STRETCH_S, LoopWatch
from tests.http_front.serving import Served
from tests.http_front.vectors import GOOD_PICTURE
from tests.running_server import Caller

WIDE = Limits(
    submits_per_minute=10**9, requests_per_second=10**9, queue_share=10**9, websockets=10**9
)
WEB_PORT = 80
FRONT_MODULE = "tests.http_front.front_with_names"


@dataclass
class Besieged:
    """The server, the image server it may call, and the private servers it must never call."""

    server: ChaosServer
    front: Served
    key: str
    images: ImageServer
    private: dict[str, ImageServer]
    """By address; also on port 80 if this user may listen there."""
    names: NamesFolder
    newest: str | None = None
    log_size: int = 0

    async def reset(self) -> None:
        """Reset all counters and names before a test."""
        self.images.answer = http_answer(GOOD_PICTURE)
        self.images.talk = None
        self.images.closes = True
        self.images.heads.clear()
        for server in self.private.values():
            server.num_calls = 0
        self.set_names({})
        self.newest = await self._newest_job()
        self.log_size = len(self.server.life.log())
        for path in self.front.stored_images():
            path.unlink()

    def set_names(self, names: dict[str, list[tuple[str, int]]]) -> None:
        """Set the addresses of host names, in addition to the image server's name."""
        self.names.set({"images.example.com": [(IMAGE_ADDRESS, self.images.port)], **names})

    @property
    def connected(self) -> list[str]:
        """The addresses that the guard allowed."""
        return self.names.connected()

    @property
    def log(self) -> str:
        """The server's log since the start of the test."""
        return self.server.life.log()[self.log_size :]

    async def assert_nothing_happened(self) -> None:
        """Check that there is no new job and no new image."""
        assert await self._newest_job() == self.newest
        assert not self.front.stored_images()

    def assert_no_private_call(self) -> None:
        """Check that only the image server got connections."""
        assert not any(server.num_calls for server in self.private.values())
        assert set(self.connected) <= {IMAGE_ADDRESS}

    def processes(self) -> list[int | None]:
        """The processes that must all survive."""
        parts = [self.server.pid_of(part) for part in ("broker", FRONT_MODULE)]
        return [*parts, *sorted(self.server.life.pids("stub_ranks"))]

    def memory_bytes(self) -> int:
        statm = Path(f"/proc/{self.server.pid_of(FRONT_MODULE)}/statm").read_text()
        return int(statm.split()[1]) * resource.getpagesize()

    async def _newest_job(self) -> str | None:
        _, page = await self.front.get("/video/list?limit=1")
        return page["jobs"][0]["requestId"] if page["jobs"] else None


@asynccontextmanager
async def besieged_server() -> AsyncIterator[Besieged]:
    """Run the server. At the end no process has died or failed, and no client had to wait."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wan-")))
        images = await stack.enter_async_context(ImageServer().listen(IMAGE_ADDRESS))
        private = await _private_servers(stack)
        names, key = NamesFolder(folder), make_key()
        names.set({})
        write_keys(folder / "keys", [ApiKey(name="ann", sha256=hash_key(key), limits=WIDE)])
        server = await stack.enter_async_context(
            chaos_server(
                folder,
                flags=["--api-keys", str(folder / "keys")],
                front_module=FRONT_MODULE,
                step_s=0.001,
            )
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(server.life.url, headers={"Authorization": f"Bearer {key}"})
        )
        front = _served(server, session)
        besieged = Besieged(server, front, key, images, private, names)
        before = besieged.processes()
        yield besieged
        assert besieged.processes() == before
        assert "Traceback" not in server.life.log()
        longest = LoopWatch(folder).longest()
        assert longest.processor_s < MAX_STRETCH_S, longest
        await besieged.reset()
        caller = Caller(session)
        await caller.wait_for(await caller.submit(), status="Succeed")


async def _private_servers(stack: AsyncExitStack) -> dict[str, ImageServer]:
    private = {}
    for address in ("127.0.0.1", "::1"):
        private[address] = await stack.enter_async_context(ImageServer().listen(address))
        with contextlib.suppress(OSError):  # the port may be forbidden or in use
            listener = ImageServer().listen(address, WEB_PORT)
            private[f"{address} {WEB_PORT}"] = await stack.enter_async_context(listener)
    return private


def _served(server: ChaosServer, session: aiohttp.ClientSession) -> Served:
    url, state_dir = server.life.url, server.state_dir
    config = FrontConfig(
        addresses=Addresses.in_folder(state_dir / "run"),
        store=str(state_dir),
        parent_pid=os.getpid(),
    )
    return Served(url, int(url.rpartition(":")[2]), config, session)
