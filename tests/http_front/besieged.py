"""A whole server under attack: all of it but the ranks, with API keys, and servers around it.

One of these it may fetch images from; the others listen on loopback and must never be called.
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
from tests.http_front.front_with_names import GuardedHttp
from tests.http_front.images.image_server import IMAGE_ADDRESS, ImageServer, http_answer
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
    """The server, the one server that it may fetch images from, and those it must never call."""

    server: ChaosServer
    front: Served
    key: str
    images: ImageServer
    private: dict[str, ImageServer]
    """By their address; on port 80, too, where this user may listen there."""
    outside: GuardedHttp
    newest: str | None = None
    log_size: int = 0

    async def reset(self) -> None:
        """Begin a test."""
        self.images.answer = http_answer(GOOD_PICTURE)
        self.images.talk = None
        self.images.closes = True
        self.images.heads.clear()
        for server in self.private.values():
            server.num_calls = 0
        self.lead({})
        self.newest = await self._newest_job()
        self.log_size = len(self.server.life.log())
        for path in self.front.stored_images():
            path.unlink()

    def lead(self, names: dict[str, list[tuple[str, int]]]) -> None:
        """Say where names lead, besides that of the image server."""
        self.outside.lead({"images.example.com": [(IMAGE_ADDRESS, self.images.port)], **names})

    @property
    def dialled(self) -> list[str]:
        """The addresses that the guard has let through."""
        return self.outside.dialled()

    @property
    def log(self) -> str:
        """What the server has logged since the test began."""
        return self.server.life.log()[self.log_size :]

    async def assert_nothing_happened(self) -> None:
        """Check that there is no new job and no image of one."""
        assert await self._newest_job() == self.newest
        assert not self.front.stored_images()

    def assert_no_private_call(self) -> None:
        """Check that only the image server was called."""
        assert not any(server.num_calls for server in self.private.values())
        assert set(self.dialled) <= {IMAGE_ADDRESS}

    def processes(self) -> list[int | None]:
        """The processes that must all be there to the end."""
        parts = [self.server.pid_of(part) for part in ("broker", FRONT_MODULE)]
        return [*parts, *sorted(self.server.life.pids("stub_ranks"))]

    def memory_bytes(self) -> int:
        """How much memory the front holds."""
        statm = Path(f"/proc/{self.server.pid_of(FRONT_MODULE)}/statm").read_text()
        return int(statm.split()[1]) * resource.getpagesize()

    async def _newest_job(self) -> str | None:
        _, page = await self.front.get("/video/list?limit=1")
        return page["jobs"][0]["requestId"] if page["jobs"] else None


@asynccontextmanager
async def besieged_server() -> AsyncIterator[Besieged]:
    """Run the server; check at the end that none of its parts has died or failed."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wan-")))
        images = await stack.enter_async_context(ImageServer().listen(IMAGE_ADDRESS))
        private = await _private_servers(stack)
        outside, key = GuardedHttp(folder), make_key()
        outside.lead({})
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
        besieged = Besieged(server, front, key, images, private, outside)
        before = besieged.processes()
        yield besieged
        assert besieged.processes() == before
        assert "Traceback" not in server.life.log()
        await besieged.reset()
        caller = Caller(session)
        await caller.wait_for(await caller.submit(), status="Succeed")


async def _private_servers(stack: AsyncExitStack) -> dict[str, ImageServer]:
    private = {}
    for address in ("127.0.0.1", "::1"):
        private[address] = await stack.enter_async_context(ImageServer().listen(address))
        with contextlib.suppress(OSError):  # not everybody may, and it may be in use
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
