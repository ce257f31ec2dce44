"""CURVE: who may speak to the broker over TCP. The keys lie in a folder that an address names.

The broker's folder holds `broker.key_secret` and, in `peers/`, the public key of every peer that
it lets in; a peer's holds `peer.key_secret` and the broker's public key, `broker.key`.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
import zmq.auth
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils.monitor import parse_monitor_message

logger = logging.getLogger(__name__)

_REFUSALS = (
    zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


class CurveError(ValueError):
    """Raised when a folder does not hold the keys that are needed."""


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Make the keys of a broker and of its peers, in a new folder each; return the two.

    Raises:
        FileExistsError: If there are keys in the folder already.
    """
    broker, peer = folder / "broker", folder / "peer"
    for made in (broker, broker / "peers", peer):
        made.mkdir(mode=0o700, parents=True)
    before = os.umask(0o177)
    try:
        zmq.auth.create_certificates(broker, "broker")
        zmq.auth.create_certificates(peer, "peer")
    finally:
        os.umask(before)
    (broker / "broker.key").rename(peer / "broker.key")
    (peer / "peer.key").rename(broker / "peers" / "peer.key")
    return broker, peer


def guard(socket: "zmq.Socket[Any]", folder: Path) -> None:
    """Let only peers with a key of the folder in; to be called before the socket is bound.

    Raises:
        CurveError: If a key is missing.
    """
    socket.curve_publickey, socket.curve_secretkey = _pair(folder / "broker.key_secret")
    socket.curve_server = True
    socket.setsockopt(zmq.ZAP_DOMAIN, os.fsencode(folder))


def unlock(socket: "zmq.Socket[Any]", folder: Path) -> None:
    """Show a peer's key, and talk to the one broker only; to be called before it is connected.

    Raises:
        CurveError: If a key is missing.
    """
    socket.curve_serverkey, _ = _load(folder / "broker.key")
    socket.curve_publickey, socket.curve_secretkey = _pair(folder / "peer.key_secret")


class Gatekeeper:
    """Checks the keys that peers show on guarded sockets, and logs those it turns away."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self._authenticator = AsyncioAuthenticator(context)
        self._watches: list[asyncio.Task[None]] = []

    def open(self, folder: Path) -> None:
        """Let in who has a key in the folder's `peers`; everybody else stays out."""
        if not self._watches:
            self._authenticator.start()
        self._authenticator.configure_curve(domain=str(folder), location=folder / "peers")

    def watch(self, socket: zmq.asyncio.Socket, address: str) -> None:
        """Log who is turned away at a socket."""
        monitor = socket.get_monitor_socket(_REFUSALS)
        self._watches.append(asyncio.create_task(_log_refusals(monitor, address)))

    def close(self) -> None:
        """Stop; whoever comes now is not let in."""
        for watch in self._watches:
            watch.cancel()
        if self._watches:
            self._authenticator.stop()


async def _log_refusals(monitor: zmq.asyncio.Socket, address: str) -> None:
    while True:
        event = parse_monitor_message(await monitor.recv_multipart())
        reason = zmq.Event(event["event"]).name or "unknown"
        logger.warning("turned away a peer at %s: %s", address, reason.lower())


def _pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        raise CurveError(f"{path} holds no secret key; wan keys curve makes one")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise CurveError(f"{path} is no CURVE key; wan keys curve makes some") from error
