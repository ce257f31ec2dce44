"""Clients with one connection each and one request at a time, as cheap as Python allows."""

import asyncio
import base64
import io
import json
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from PIL import Image


@dataclass(frozen=True)
class Outcome:
    """What a crowd of clients measured."""

    per_s: float
    p50_ms: float
    p99_ms: float


class Connection:
    """One keep-alive connection with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return status, await self._reader.readexactly(int(length))

    async def post(self, path: str, body: object, expected: int = 200) -> Any:
        """Post JSON; return the decoded answer."""
        status, answer = await self.ask(post(path, body))
        assert status == expected, (status, answer)
        return json.loads(answer)


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Connection]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


def post(path: str, body: object) -> bytes:
    """Return the bytes of a JSON request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def small_image_url(more: bytes = b"") -> str:
    """Return a 128*128 image as a data URL of about one kilobyte.

    Args:
        more: Bytes after the end of the image, which make it a different file.
    """
    return "data:image/jpeg;base64," + base64.b64encode(_small_image() + more).decode()


@cache
def _small_image() -> bytes:
    ramp = Image.linear_gradient("L").resize((128, 128))
    file = io.BytesIO()
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(file, "JPEG", quality=60)
    return file.getvalue()


async def crowd(url: str, requests: Iterator[bytes], num_clients: int, seconds: float) -> Outcome:
    """Run so many clients for a while, each with one request at a time; each answer must be 2xx."""
    latencies_s: list[float] = []
    begun = time.perf_counter()

    async def client() -> None:
        async with connection(url) as line:
            while (asked := time.perf_counter()) < begun + seconds:
                status, body = await line.ask(next(requests))
                assert 200 <= status < 300, body
                latencies_s.append(time.perf_counter() - asked)

    async with asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(client())
    elapsed_s = time.perf_counter() - begun
    p50_ms, p99_ms = percentiles_ms(latencies_s)
    return Outcome(len(latencies_s) / elapsed_s, p50_ms, p99_ms)


def percentiles_ms(latencies_s: list[float]) -> tuple[float, float]:
    """Return median and 99th percentile in milliseconds."""
    return (
        statistics.median(latencies_s) * 1000,
        statistics.quantiles(latencies_s, n=100, method="inclusive")[98] * 1000,
    )
