"""The broker over TCP: only peers with a key in its folder are served."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import zmq
import zmq.asyncio
import zmq.auth
from zmq.utils.monitor import parse_monitor_message

from broker.config import BrokerConfig
from broker.wire.curve import CurveError, make_keys, unlock
from broker.wire.job import JobState
from broker.wire.requests import GetHealth, front_requests
from broker.wire.sockets import Addresses, bind_router, connect_dealer
from tests.broker.driver import LIMIT_S, BrokerProcess, Front, broker_config
from tests.free_port import free_port
from tests.stub_group import StubConfig, StubGroup

DISCONNECTED = zmq.Event.DISCONNECTED


@dataclass
class Remote:
    """A broker that also listens on TCP; `addresses` and `keys` are those of a peer."""

    process: asyncio.subprocess.Process
    config: BrokerConfig
    addresses: Addresses
    keys: Path

    async def next_log_line(self, text: str) -> str:
        """Return the next line of the broker's log that contains a text."""
        assert self.process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            while True:
                line = (await self.process.stderr.readline()).decode()
                assert line, "the broker has ended"
                if text in line:
                    return line


@pytest_asyncio.fixture
async def remote(tmp_path: Path) -> AsyncIterator[Remote]:
    broker_keys, peer_keys = make_keys(tmp_path / "keys")
    place = f"tcp://127.0.0.1:{free_port()}"
    config = broker_config(tmp_path / "state", listen=Addresses.on_tcp(place, broker_keys))
    broker = BrokerProcess(config)
    await broker.spawn()
    peers = Addresses.on_tcp(place, peer_keys)
    remote = Remote(
        broker.process, msgspec.structs.replace(config, addresses=peers), peers, peer_keys
    )
    try:
        await remote.next_log_line("ready")
        yield remote
    finally:
        if broker.process.returncode is None:
            await broker.kill()


async def test_peers_with_a_known_key_are_served(remote: Remote) -> None:
    stub = StubConfig(
        addresses=remote.addresses, videos_dir=str(Path(remote.config.state_dir) / "videos")
    )
    async with StubGroup(stub), Front(remote.config) as front:
        job_id = await front.submit_ok()
        assert (await front.until(job_id, JobState.SUCCEED)).video == f"{job_id}.mp4"


async def expect_refusal(remote: Remote, secure: Any, expected: str) -> None:
    """Check that a socket prepared by `secure` gets no reply and its refusal is logged."""
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        secure(dealer)
        dealer.connect(remote.addresses.requests.partition("#")[0])
        await dealer.send_multipart([b"1", *front_requests.encode(GetHealth())])
        line = await remote.next_log_line("refused ")
        assert expected in line
        assert not await dealer.poll(0)
    finally:
        context.destroy(linger=0)


async def test_a_peer_without_a_key_is_refused_and_logged(remote: Remote) -> None:
    await expect_refusal(remote, lambda _dealer: None, "at tcp://127.0.0.1:")


async def test_a_peer_with_an_unknown_key_is_refused_and_its_key_logged(
    remote: Remote, tmp_path: Path
) -> None:
    _, foreign = make_keys(tmp_path / "foreign")
    (foreign / "broker.key").write_bytes((remote.keys / "broker.key").read_bytes())
    key, _ = zmq.auth.load_certificate(foreign / "peer.key_secret")
    shown = f"127.0.0.1, which shows the key {key.decode()}"
    await expect_refusal(remote, lambda dealer: unlock(dealer, foreign), shown)


async def test_a_known_public_key_without_its_secret_is_refused(
    remote: Remote, tmp_path: Path
) -> None:
    _, foreign = make_keys(tmp_path / "foreign")
    known, _ = zmq.auth.load_certificate(remote.keys / "peer.key_secret")
    server, _ = zmq.auth.load_certificate(remote.keys / "broker.key")
    _, secret = zmq.auth.load_certificate(foreign / "peer.key_secret")

    def use_foreign_secret(dealer: "zmq.Socket[bytes]") -> None:
        dealer.curve_serverkey, dealer.curve_publickey = server, known
        dealer.curve_secretkey = secret

    await expect_refusal(remote, use_foreign_secret, "at tcp://127.0.0.1:")


async def test_a_peer_of_another_broker_is_refused(remote: Remote, tmp_path: Path) -> None:
    _, foreign = make_keys(tmp_path / "foreign")
    await expect_refusal(remote, lambda dealer: unlock(dealer, foreign), "at tcp://127.0.0.1:")


async def test_a_peer_that_keeps_connecting_is_logged_once(remote: Remote) -> None:
    await expect_refusal(remote, lambda _dealer: None, "at tcp://127.0.0.1:")
    with zmq.Context() as context:
        for _ in range(20):
            with context.socket(zmq.DEALER) as dealer, dealer.get_monitor_socket() as monitor:
                dealer.connect(remote.addresses.requests.partition("#")[0])
                while parse_monitor_message(monitor.recv_multipart())["event"] != DISCONNECTED:
                    pass
                dealer.disable_monitor()
    remote.process.send_signal(signal.SIGTERM)
    assert remote.process.stderr is not None
    remaining_log = await asyncio.wait_for(remote.process.stderr.read(), LIMIT_S)
    assert remaining_log.count(b"refused ") <= 1  # once more for another reason


async def test_peers_on_this_machine_need_no_key(remote: Remote) -> None:
    async with Front(broker_config(Path(remote.config.state_dir))) as front:
        await front.submit_ok()


async def test_a_refused_peer_does_not_disturb_other_peers(remote: Remote) -> None:
    await expect_refusal(remote, lambda _dealer: None, "at tcp://127.0.0.1:")
    async with Front(remote.config) as front:
        await front.submit_ok()


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5555", "tcp://10.0.0.1:5555", "tcp://*:5555"])
def test_a_tcp_address_beyond_loopback_needs_keys(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        with pytest.raises(ValueError, match="needs CURVE keys"):
            bind_router(router, address)
        with context.socket(zmq.DEALER) as dealer, pytest.raises(ValueError, match="CURVE keys"):
            connect_dealer(dealer, address, "front")


def test_a_folder_without_keys_is_named_in_the_error(tmp_path: Path) -> None:
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as router,
        pytest.raises(CurveError, match=f"{tmp_path}/broker.key_secret is no CURVE key"),
    ):
        bind_router(router, f"tcp://127.0.0.1:1#{tmp_path}")


def test_wan_keys_curve_writes_keys_that_only_their_owner_can_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launcher.wan", "keys", "curve", str(tmp_path / "keys")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "copy to the machines with ranks or fronts" in made.stdout
    files = [path for path in (tmp_path / "keys").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        *("broker.key_secret", "peer.key", "peer.key_secret", "broker.key")
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 2
