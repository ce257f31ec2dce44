"""Clients that hold connections: they are cut, limited, and never fill the log."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from http_front import http_server
from http_front.access.connection_limits import ConnectionLimits
from tests.broker.driver import broker_config
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import serve
from tests.http_front.test_exhaustion import front_process, no_more_files
from tests.running_server import until

LIMIT_S = 30.0
VIDEO = f"/videos/{'0' * 32}.mp4"


async def connect(port: int) -> socket.socket:
    """Return a connection whose client takes little before it reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


async def until_cut(client: socket.socket) -> None:
    """Wait until the server has given up a connection, without ever reading from it."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            await loop.sock_sendall(client, b"\n")
        except ConnectionError:
            return
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("path", ["/static/swagger-ui-bundle.js", VIDEO])
async def test_a_client_that_never_reads_is_cut_without_a_word_in_the_log(
    tmp_path: Path,
    broker: ScriptedBroker,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1,000 such clients would hold their descriptors and 2 GiB of the kernel for ever."""
    monkeypatch.setattr(http_server, "SEND_LIMIT_S", 1.0)
    async with serve(tmp_path, broker.addresses) as front:
        front.videos.mkdir(exist_ok=True)
        (front.videos / Path(path).name).write_bytes(bytes(4 << 20))
        clients = [await connect(front.port) for _ in range(20)]
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        for client in clients:
            client.send(request)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*map(until_cut, clients))
            async with front.session.get(front.url + path) as response:
                assert len(await response.read()) > 1 << 20
        for client in clients:
            client.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_slow_reader_gets_all(
    tmp_path: Path, broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one that takes nothing at all is cut, however long the whole takes."""
    monkeypatch.setattr(http_server, "SEND_LIMIT_S", 1.0)
    num_bytes, num_read = 1 << 18, 0
    loop = asyncio.get_running_loop()
    async with serve(tmp_path, broker.addresses) as front:
        front.videos.mkdir(exist_ok=True)
        (front.videos / Path(VIDEO).name).write_bytes(bytes(num_bytes))
        with await connect(front.port) as client:
            await loop.sock_sendall(
                client,
                f"GET {VIDEO} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode(),
            )
            async with asyncio.timeout(LIMIT_S):
                while data := await loop.sock_recv(client, 1 << 16):
                    num_read += len(data)
                    await asyncio.sleep(0.05)
    assert num_read > num_bytes


@asynccontextmanager
async def open_connections(port: int, number: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Open connections, each of which has got an answer."""
    writers = []
    for _ in range(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


async def test_connections_over_the_limit_are_closed_and_others_take_their_turn(
    tmp_path: Path, broker: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ConnectionLimits(max_connections=5)
    async with (
        asyncio.timeout(LIMIT_S),
        serve(tmp_path, broker.addresses, limits=limits) as front,
        open_connections(front.port, 5) as writers,
    ):
        for _ in range(100):
            assert await first_line(front.port) == b""
        writers.pop().close()
        while not await first_line(front.port):
            pass
    assert len([record for record in caplog.records if "refused" in record.message]) == 1


async def first_line(port: int) -> bytes:
    """Ask for `/live` on a new connection; return the status line, empty if it was refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_an_address_has_a_limit_of_its_own_and_a_network_of_ipv6_counts_as_one() -> None:
    limits = ConnectionLimits(max_connections=100, max_per_address=2)
    keys = [limits.open("192.0.2.1"), limits.open("192.0.2.1")]
    assert None not in keys
    assert limits.open("192.0.2.1") is None
    assert limits.open("192.0.2.2") is not None
    limits.close("192.0.2.1")
    assert limits.open("192.0.2.1") is not None
    assert limits.open("2001:db8::1") is not None
    assert limits.open("2001:db8::2") is not None
    assert limits.open("2001:db8::3") is None
    assert limits.open("2001:db8:0:1::3") is not None
    assert all(limits.open("127.0.0.1") is not None for _ in range(10))


async def test_a_front_that_cannot_accept_says_so_once_a_second_and_recovers(
    tmp_path: Path,
) -> None:
    """asyncio would log 3,900 tracebacks a second, and more with each second."""
    path = tmp_path / "log"
    with path.open("wb") as log:
        async with front_process(broker_config(tmp_path), log.fileno()) as (pid, url):
            port = int(url.rpartition(":")[2])
            with no_more_files(pid):
                clients = [await connect(port) for _ in range(150)]
                await until(lambda: path.read_text().count("cannot accept") >= 3, LIMIT_S)
            lines = path.read_text().splitlines()
            assert len([line for line in lines if "cannot accept" in line]) <= 4
            assert not [line for line in lines if "Traceback" in line]
            for client in clients:
                client.close()
            async with asyncio.timeout(LIMIT_S):
                assert await first_line(port) == b"HTTP/1.1 200 OK\r\n"
