"""The Python client with a server that stops responding."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from http_front.client import client
from http_front.client.client import UnreachableError, WanClient
from http_front.video.form import UPLOAD_LIMIT_S as SERVERS_UPLOAD_LIMIT_S

JOB = "0" * 32
LIMIT_S = 10.0


@pytest_asyncio.fixture
async def silent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of a server that sends the start of a video and then nothing more."""
    monkeypatch.setattr(client, "RESPONSE_LIMIT_S", 0.2)

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"GET /videos/" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nstart")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_silent_server_is_reported_as_no_response(silent: str) -> None:
    async with asyncio.timeout(LIMIT_S), WanClient(silent) as wan:
        with pytest.raises(UnreachableError, match=r"no response from http://.* \(TimeoutError\)"):
            await wan.status(JOB)


async def test_a_stalled_download_is_reported_as_no_response_and_leaves_no_file(
    silent: str, tmp_path: Path
) -> None:
    async with asyncio.timeout(LIMIT_S), WanClient(silent) as wan:
        with pytest.raises(UnreachableError, match=r"no response from http://.* \(.*[Tt]ime.*\)"):
            await wan.download(JOB, tmp_path / "video.mp4")
    assert os.listdir(tmp_path) == []


async def test_an_upload_may_take_as_long_as_the_server_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert client.UPLOAD_LIMIT_S == SERVERS_UPLOAD_LIMIT_S
    monkeypatch.setattr(client, "RESPONSE_LIMIT_S", 0.2)
    is_late = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/video/submit" in await reader.readuntil(b"\r\n\r\n"):
            await is_late.wait()
            body = b'{"requestId":"%s"}' % JOB.encode()
            writer.write(b"HTTP/1.1 202 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await reader.read()
        writer.close()

    image = tmp_path / "image.png"
    image.write_bytes(b"image")
    async with (
        asyncio.timeout(LIMIT_S),
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        WanClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as wan,
    ):
        submit = asyncio.create_task(wan.submit(image, {"prompt": "a cat"}))
        for _ in range(2):  # twice the time limit for a response
            with pytest.raises(UnreachableError):
                await wan.status(JOB)
        is_late.set()
        assert await submit == JOB
