"""What systemd is told, heard on a real datagram socket."""

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
def ear(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        listener.settimeout(LIMIT_S)
        yield listener


def hear_until(ear: socket.socket, wanted: str) -> list[str]:
    """Return the assignments that come, up to the one that begins as wanted."""
    heard: list[str] = []
    while not (heard and heard[-1].startswith(wanted)):
        for line in ear.recv(HUGE).decode().split("\n"):
            heard.append(line)
            if line.startswith(wanted):
                break
    return heard


def test_news_reach_a_socket_at_a_path_or_in_the_abstract_namespace(
    address: str, ear: socket.socket
) -> None:
    ServiceManager({"NOTIFY_SOCKET": address}).tell("READY=1", "STATUS=up")
    assert ear.recv(HUGE) == b"READY=1\nSTATUS=up"


def test_a_manager_that_does_not_hear_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager({}).tell("READY=1")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    assert "NOTIFY_SOCKET: cannot tell READY=1" in caplog.text


async def test_without_a_watchdog_there_is_none_to_pacify() -> None:
    async with asyncio.timeout(LIMIT_S):
        await ServiceManager(os.environ).pacify_watchdog()


async def test_the_server_is_ready_while_its_ranks_still_load(
    tmp_path: Path, address: str, ear: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with `READY=1` after the wait for the groups."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    server = ChaosServer(tmp_path)
    server.faults.lay("load", "hold")
    try:
        server.spawn()
        heard = await asyncio.to_thread(hear_until, ear, "STATUS=up, ranks are loading: http://")
        assert heard[0] == "READY=1"
        assert "launcher ready after" not in server.life.log()
    finally:
        server.end()


async def test_systemd_hears_of_the_start_the_life_and_the_stop(
    tmp_path: Path, address: str, ear: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    server = ChaosServer(tmp_path)
    try:
        await server.start()
        heard = await asyncio.to_thread(hear_until, ear, "STATUS=ready after")
        assert heard[-1].endswith(server.life.url)
        await asyncio.to_thread(hear_until, ear, "WATCHDOG=1")
        assert await server.life.stop() == 0
        await asyncio.to_thread(hear_until, ear, "STOPPING=1")
    finally:
        server.end()
