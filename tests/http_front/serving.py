"""A front in this process, on a free port, with helpers to send requests."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from PIL import Image

from broker.store.store import INPUTS, VIDEOS
from broker.wire.sockets import Addresses
from http_front.access.connection_limits import ConnectionLimits
from http_front.app import create_app
from http_front.config import FrontConfig
from http_front.http_server import create_runner
from http_front.images.fetch import ImageSource
from http_front.images.guarded_http import GuardedHttp

PROMPT = "A cat walks slowly over a wooden bridge"


@dataclass(frozen=True)
class Served:
    """A running front."""

    url: str
    port: int
    config: FrontConfig
    session: aiohttp.ClientSession

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Send JSON; return the status and the JSON body."""
        async with self.session.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        """Return the status and the JSON body."""
        async with self.session.get(self.url + path) as response:
            return response.status, await response.json()

    async def upload(self, image: bytes, **fields: str) -> tuple[int, Any]:
        """Submit a form with an image file."""
        form = aiohttp.FormData({"prompt": PROMPT, **fields})
        form.add_field("image", BytesIO(image), filename="cat.png", content_type="image/png")
        async with self.session.post(self.url + "/video/submit", data=form) as response:
            return response.status, await response.json()

    async def submit(self) -> str:
        """Submit a valid job; return its id."""
        status, answer = await self.upload(picture())
        assert status == 202, answer
        return str(answer["requestId"])

    @property
    def videos(self) -> Path:
        return Path(self.config.store) / VIDEOS

    def stored_images(self) -> list[Path]:
        """All files in the folder of input images."""
        inputs = Path(self.config.store) / INPUTS
        return [path for path in inputs.rglob("*") if path.is_file()]


@asynccontextmanager
async def serve(
    folder: Path,
    addresses: Addresses,
    source: ImageSource | None = None,
    callback_http: GuardedHttp | None = None,
    limits: ConnectionLimits | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    settings = {"store": str(folder), **settings}
    config = FrontConfig(addresses=addresses, parent_pid=os.getppid(), **settings)
    runner = create_runner(create_app(config, source, callback_http), limits, config.access_log)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session:
            yield Served(f"http://127.0.0.1:{port}", port, config, session)
    finally:
        await runner.cleanup()


def picture(width_px: int = 96, height_px: int = 64, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.new("RGB", (width_px, height_px), "teal").save(file, kind)
    return file.getvalue()


async def send_raw(port: int, data: bytes, *, head_only: bool = False, ends: bool = False) -> bytes:
    """Send bytes on a new connection; return the response, read until the server closes it.

    With `head_only`, stop reading after the head of the response. With `ends`, send EOF after the
    data.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        if ends:
            writer.write_eof()
        async with asyncio.timeout(20):
            return await (reader.readuntil(b"\r\n\r\n") if head_only else reader.read())
    finally:
        writer.close()
