"""Clients that do not get the answer to a submit: one job is made, and they learn its id."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from http_front.client.client import WanClient
from tests.http_front.full_stack import LIMIT_S, WAN, Stack
from tests.http_front.serving import PROMPT

GATEWAY_TIMEOUT = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def swallowing_proxy(url: str, instead: bytes) -> AsyncIterator[str]:
    """Forward connections to a server, but send `instead` of its very first answer."""
    ends: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = not ends
        far_reader, far_writer = await asyncio.open_connection(*url[7:].split(":"))
        ends.extend((writer, far_writer))
        upload = asyncio.create_task(pump(reader, far_writer))
        if is_first:
            assert b" 202 " in await far_reader.readuntil(b"\r\n\r\n")
            writer.write(instead)
        else:
            await pump(far_reader, writer)
        for end in (writer, far_writer):
            end.close()
        await upload

    async with await asyncio.start_server(carry, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for end in ends:
        end.close()
        await end.wait_closed()


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 16):
            target.write(data)


@pytest.mark.parametrize("instead", [b"", GATEWAY_TIMEOUT], ids=["nothing", "504"])
async def test_a_lost_answer_costs_no_second_video(stack: Stack, instead: bytes) -> None:
    async with (
        asyncio.timeout(LIMIT_S),
        swallowing_proxy(stack.front.url, instead) as url,
        WanClient(url) as client,
    ):
        job_id = await client.submit(stack.image, {"prompt": PROMPT})
    assert [job.requestId for job in (await stack.client.jobs(10)).jobs] == [job_id]


async def test_wan_submits_again_when_the_answer_was_lost(stack: Stack) -> None:
    async with swallowing_proxy(stack.front.url, b"") as url:
        process = await asyncio.create_subprocess_exec(
            *(*WAN, "submit", str(stack.image), "--prompt", PROMPT, "--server", url),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(LIMIT_S):
            out, _ = await process.communicate()
    assert [job.requestId for job in (await stack.client.jobs(10)).jobs] == [out.decode().strip()]
