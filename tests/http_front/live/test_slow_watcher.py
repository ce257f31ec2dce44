import asyncio
import socket

import aiohttp

from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served

NUM_CHANGES = 10_000


async def upgrade_and_never_read(port: int, job_id: str) -> socket.socket:
    """Return a WebSocket that is never read; its buffers are small, so that they fill soon."""
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    silent.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(silent, ("127.0.0.1", port))
    head = (
        f"GET /video/progress?requestId={job_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await loop.sock_sendall(silent, head.encode())
    assert (await loop.sock_recv(silent, 12)) == b"HTTP/1.1 101"
    return silent


async def test_a_watcher_that_never_reads_is_disconnected_and_delays_no_other(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    url = f"{front.url}/video/progress?requestId={job_id}"
    with await upgrade_and_never_read(front.port, job_id):
        async with front.session.ws_connect(url) as watcher:
            await watch_everything(broker, watcher, job_id)
        async with asyncio.timeout(20):  # until the front gives up on the silent one
            while (await broker.subscribed.get())[:1] != b"\x00":
                pass


async def watch_everything(
    broker: ScriptedBroker, watcher: aiohttp.ClientWebSocketResponse, job_id: str
) -> None:
    seqs = [(await watcher.receive_json())["seq"]]
    for step in range(NUM_CHANGES):
        await broker.change(job_id, step=step)
        if step % 50 == 49:
            while seqs[-1] < step + 2:
                async with asyncio.timeout(5):
                    seqs.append((await watcher.receive_json())["seq"])
    assert seqs == list(range(1, NUM_CHANGES + 2))


async def test_too_many_watchers_are_refused(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    url = f"{front.url}/video/progress?requestId={job_id}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        watchers = [await session.ws_connect(url) for _ in range(256)]
        async with session.get(
            url,
            headers={
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
        ) as response:
            assert response.status == 503
            assert response.headers["Retry-After"]
        await asyncio.gather(*(watcher.close() for watcher in watchers))
