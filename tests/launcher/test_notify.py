"""What systemd receives, read from a real datagram socket."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.notify import ServiceManager
from tests.chaos.server import ChaosServer

LIMIT_S = 60.0
HUGE = 1 << 16


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"@wan-{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "n")


@pytest.fixture
def notify_socket(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        listener.settimeout(LIMIT_S)
        yield listener


def receive_until(notify_socket: socket.socket, prefix: str) -> list[str]:
    """Return the assignments received, up to the first that starts with a prefix."""
    received: list[str] = []
    while not (received and received[-1].startswith(prefix)):
        for line in notify_socket.recv(HUGE).decode().split("\n"):
            received.append(line)
            if line.startswith(prefix):
                break
    return received


def test_assignments_reach_a_socket_at_a_path_or_in_the_abstract_namespace(
    address: str, notify_socket: socket.socket
) -> None:
    ServiceManager({"NOTIFY_SOCKET": address}).notify("READY=1", "STATUS=up")
    assert notify_socket.recv(HUGE) == b"READY=1\nSTATUS=up"


def test_a_service_manager_that_does_not_answer_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager({}).notify("READY=1")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify("READY=1")
    assert "NOTIFY_SOCKET: cannot send READY=1" in caplog.text


async def test_without_a_watchdog_nothing_feeds_it() -> None:
    async with asyncio.timeout(LIMIT_S):
        await ServiceManager(os.environ).feed_watchdog(lambda: True)


async def test_the_watchdog_starves_while_a_hung_process_cannot_be_replaced(
    address: str, notify_socket: socket.socket
) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"}
    answers = [True, False, False, True]

    def is_well() -> bool:
        if not answers:
            feeding.cancel()
        return bool(answers) and answers.pop(0)

    feeding = asyncio.create_task(ServiceManager(environ).feed_watchdog(is_well))
    await asyncio.wait([feeding], timeout=LIMIT_S)
    notify_socket.setblocking(False)
    assert [notify_socket.recv(HUGE) for _ in range(2)] == [b"WATCHDOG=1"] * 2
    with pytest.raises(BlockingIOError):
        notify_socket.recv(HUGE)


async def test_the_server_is_ready_while_its_ranks_still_load(
    tmp_path: Path, address: str, notify_socket: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    server = ChaosServer(tmp_path)
    server.faults.set("load", "hold")
    try:
        server.spawn()
        received = await asyncio.to_thread(
            receive_until, notify_socket, "STATUS=up, ranks are loading: http://"
        )
        assert received[0] == "READY=1"
        assert "launcher ready after" not in server.life.log()
    finally:
        server.end()


async def test_systemd_receives_start_watchdog_and_stop(
    tmp_path: Path, address: str, notify_socket: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    server = ChaosServer(tmp_path)
    try:
        await server.start()
        received = await asyncio.to_thread(receive_until, notify_socket, "STATUS=ready after")
        assert received[-1].endswith(server.life.url)
        await asyncio.to_thread(receive_until, notify_socket, "WATCHDOG=1")
        assert await server.life.stop() == 0
        await asyncio.to_thread(receive_until, notify_socket, "STOPPING=1")
    finally:
        server.end()
