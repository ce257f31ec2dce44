"""CURVE keys: which peers may speak to the broker over TCP.

The broker's folder holds `broker.key_secret` and, in `peers/`, the public key of every peer that
may connect. A peer's folder holds `peer.key_secret` and the broker's public key, `broker.key`.
"""

import asyncio
import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
import zmq.auth
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

logger = logging.getLogger(__name__)

_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_FAILURES = zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
_SAME_AFTER_S = 3600.0
_MAX_REFUSALS = 100


class CurveError(ValueError):
    """Raised when a folder lacks a key."""


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Make the keys of a broker and its peers; return their two new folders.

    Raises:
        FileExistsError: If the folder holds keys already.
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
    """Accept only peers with a key in the folder; call it before the socket is bound.

    Raises:
        CurveError: If a key is missing.
    """
    socket.curve_publickey, socket.curve_secretkey = _pair(folder / "broker.key_secret")
    socket.curve_server = True
    socket.setsockopt(zmq.ZAP_DOMAIN, os.fsencode(folder))
    # Otherwise a peer that connects before the gatekeeper runs is accepted with any key.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def unlock(socket: "zmq.Socket[Any]", folder: Path) -> None:
    """Show a peer's key, and accept one broker only; call it before the socket is connected.

    Raises:
        CurveError: If a key is missing.
    """
    socket.curve_serverkey, _ = _load(folder / "broker.key")
    socket.curve_publickey, socket.curve_secretkey = _pair(folder / "peer.key_secret")


class Gatekeeper:
    """Checks the keys that peers show on guarded sockets, and logs refusals.

    libzmq asks about each peer by the ZeroMQ Authentication Protocol (ZAP, RFC 27).
    """

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self._context = context
        self._zap = context.socket(zmq.REP)
        self._keys: dict[bytes, frozenset[bytes]] = {}
        self._refusals = _Refusals()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, folder: Path) -> None:
        """Accept peers with a key in the folder's `peers/`, and no others.

        Raises:
            CurveError: If the folder holds no key.
        """
        if not self._tasks:
            self._zap.bind(_ZAP_ADDRESS)
            self._tasks.append(asyncio.create_task(self._answer()))
        self._keys[os.fsencode(folder)] = _peers(folder / "peers")

    def watch(self, socket: "zmq.Socket[bytes]", address: str) -> None:
        """Log peers that fail at a socket before they show a key."""
        endpoint = f"inproc://failures-{secrets.token_hex(8)}"
        socket.monitor(endpoint, _FAILURES)
        monitor = self._context.socket(zmq.PAIR)
        monitor.connect(endpoint)
        self._tasks.append(asyncio.create_task(self._watch_failures(monitor, address)))

    def close(self) -> None:
        # Peers that connect from now on are refused.
        for task in self._tasks:
            task.cancel()
        self._zap.close(linger=0)

    async def _answer(self) -> None:
        while True:
            question = await self._zap.recv_multipart()
            _version, request, domain, address, _identity, mechanism, *shown = question
            if mechanism == b"CURVE" and shown[0] in self._keys.get(domain, ()):
                status, text = b"200", b"OK"
            else:
                status, text = b"400", b"unknown key"
                key = z85.encode(shown[0]).decode() if shown else "none"
                self._refusals.log(f"refused {address.decode()}, which shows the key {key}")
            await self._zap.send_multipart([_ZAP_VERSION, request, status, text, b"", b""])

    async def _watch_failures(self, monitor: zmq.asyncio.Socket, address: str) -> None:
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())
            reason = (zmq.Event(event["event"]).name or "unknown").lower()
            self._refusals.log(f"refused a peer at {address}: {reason}")


class _Refusals:
    """Logs each refusal once an hour: a refused peer tries again at once, and forever."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def log(self, text: str) -> None:
        now_s = time.monotonic()
        self._logged = {
            known: at_s for known, at_s in self._logged.items() if now_s - at_s < _SAME_AFTER_S
        }
        if text not in self._logged and len(self._logged) < _MAX_REFUSALS:
            self._logged[text] = now_s
            logger.warning("%s", text)


def _pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        raise CurveError(f"{path} holds no secret key; wan keys curve makes one")
    return public, secret


def _peers(folder: Path) -> frozenset[bytes]:
    known = frozenset(z85.decode(_load(path)[0]) for path in folder.glob("*.key"))
    if not known:
        raise CurveError(f"{folder} holds no peer's key; wan keys curve makes one")
    return known


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise CurveError(f"{path} is no CURVE key; wan keys curve makes some") from error
