"""The Python client before a server that falls silent."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from http_front import client
from http_front.client import UnreachableError, WanClient

JOB = "0" * 32
LIMIT_S = 10.0


@pytest_asyncio.fixture
async def silent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of a server that begins a video, and says nothing more to anybody."""
    monkeypatch.setattr(client, "ANSWER_LIMIT_S", 0.2)

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"GET /videos/" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nstart")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_server_that_falls_silent_is_told_as_no_answer(silent: str) -> None:
    async with asyncio.timeout(LIMIT_S), WanClient(silent) as wan:
        with pytest.raises(UnreachableError, match=r"no answer from http://.* \(TimeoutError\)"):
            await wan.status(JOB)


async def test_a_video_that_stops_coming_is_told_as_no_answer_and_leaves_no_file(
    silent: str, tmp_path: Path
) -> None:
    async with asyncio.timeout(LIMIT_S), WanClient(silent) as wan:
        with pytest.raises(UnreachableError, match=r"no answer from http://.* \(.*[Tt]ime.*\)"):
            await wan.download(JOB, tmp_path / "video.mp4")
    assert os.listdir(tmp_path) == []
