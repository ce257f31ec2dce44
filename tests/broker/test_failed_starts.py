"""A broker that cannot bind says so in one line and ends; it used to wait for its own sockets."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.config import BrokerConfig
from broker.wire.curve import make_keys
from broker.wire.sockets import Addresses
from tests.broker.driver import BrokerProcess, broker_config, changed_config

END_LIMIT_S = 5.0
START_LIMIT_S = 20.0


def without_run_folder(config: BrokerConfig, _port: int) -> BrokerConfig:
    (Path(config.state_dir) / "run").rmdir()
    return config


def with_something_at_the_path(config: BrokerConfig, _port: int) -> BrokerConfig:
    # As a socket file that this user may not remove.
    (Path(config.state_dir) / "run" / "beats.sock").mkdir()
    return config


def with_taken_port(config: BrokerConfig, port: int) -> BrokerConfig:
    return changed_config(config, listen=Addresses.on_tcp(f"tcp://127.0.0.1:{port}", None))


def with_taken_port_and_keys(config: BrokerConfig, port: int) -> BrokerConfig:
    keys, _ = make_keys(Path(config.state_dir) / "keys")
    return changed_config(config, listen=Addresses.on_tcp(f"tcp://127.0.0.1:{port}", keys))


def without_keys(config: BrokerConfig, port: int) -> BrokerConfig:
    keys = Path(config.state_dir) / "keys"
    return changed_config(config, listen=Addresses.on_tcp(f"tcp://127.0.0.1:{port}", keys))


async def last_lines(broker: BrokerProcess) -> list[bytes]:
    """Start a broker that fails; return its log once it has ended."""
    await broker.spawn()
    assert broker.process.stderr is not None
    try:
        async with asyncio.timeout(START_LIMIT_S):
            log = [await broker.process.stderr.readline()]
        async with asyncio.timeout(END_LIMIT_S):
            log += (await broker.process.stderr.read()).splitlines()
            assert await broker.process.wait() == 1
    finally:
        if broker.process.returncode is None:
            await broker.kill()
    return log


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (without_run_folder, "requests.sock: No such file or directory"),
        (with_something_at_the_path, "beats.sock: Address already in use"),
        (with_taken_port, "Address already in use; end the process that listens there"),
        (with_taken_port_and_keys, "Address already in use; end the process that listens there"),
        (without_keys, "holds no peer's key"),
    ],
)
async def test_a_broker_that_cannot_bind_ends_with_one_line(
    tmp_path: Path, spoil: Callable[[BrokerConfig, int], BrokerConfig], text: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broker = BrokerProcess(spoil(broker_config(tmp_path), taken.getsockname()[1]))
        log = await last_lines(broker)
    errors = [line.decode() for line in log if b"ERROR" in line]
    assert len(errors) == 1
    assert text in errors[0]
    assert b"Traceback" not in b"".join(log)
