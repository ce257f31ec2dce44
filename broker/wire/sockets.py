"""The settings of every ZeroMQ socket of the broker and its peers.

A setting affects later binds and connects only, so each function sets all of them first.
"""

import errno
import ipaddress
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import zmq

from broker.wire import curve
from broker.wire.errors import BindError

MAX_MESSAGE_BYTES = 1 << 20
# Room for a job id, and for the CURVE handshake, to which the limit applies as well.
MAX_TOPIC_BYTES = 512
HIGH_WATER_MARK = 1000
_MAX_IPC_PATH_BYTES = 107
_MAX_PORT = 65535
_TCP = re.compile(r"tcp://([^\s#/]+):([0-9]{1,5})")


class _Pings(NamedTuple):
    """How often one end of a connection pings the other, and how long it waits for an answer."""

    every_ms: int
    limit_ms: int


# A connection between machines can die silently. The time to live in a ping does not help, since
# libzmq forgets it with the next message.
_BROKERS_PINGS = _Pings(every_ms=3000, limit_ms=3000)  # noticed within 6 s
_PEERS_PINGS = _Pings(every_ms=3000, limit_ms=7000)  # noticed after 7 s to 10 s
# Published messages have no identity, and heartbeats must return before they are missed.
_PUBLISHED_PINGS = _Pings(every_ms=1000, limit_ms=3000)

_BIND_ADVICE = {
    errno.EADDRINUSE: "; end the process that listens there, or remove what lies at the path",
    errno.ENOSPC: "; free space and inodes",
}

ZmqSocket = TypeVar("ZmqSocket", bound="zmq.Socket[Any]")


class Addresses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Addresses of the broker's four sockets.

    Each is `ipc://PATH`, `tcp://HOST:PORT` on loopback, or `tcp://HOST:PORT#FOLDER` with a folder
    of this end's CURVE keys.
    """

    requests: str
    groups: str
    beats: str
    events: str

    @classmethod
    def in_folder(cls, run_dir: Path) -> "Addresses":
        """Return the `ipc://` addresses in a folder that only this user may enter.

        Raises:
            ValueError: If the folder's path is too long for a socket.
        """
        paths = {name: run_dir / f"{name}.sock" for name in cls.__struct_fields__}
        longest = max(len(os.fsencode(path)) for path in paths.values())
        if longest > _MAX_IPC_PATH_BYTES:
            raise ValueError(
                f"socket paths in {run_dir} have {longest} bytes; the system allows "
                f"{_MAX_IPC_PATH_BYTES}; choose a shorter --state-dir"
            )
        return cls(**{name: f"ipc://{path}" for name, path in paths.items()})

    @classmethod
    def on_tcp(cls, address: str, keys: Path | None) -> "Addresses":
        """Return the addresses at a port and the three after it.

        Args:
            address: `tcp://HOST:PORT`.
            keys: Folder of this end's CURVE keys; optional on loopback only.

        Raises:
            ValueError: If the address is invalid, or needs keys.
        """
        match = _TCP.fullmatch(address)
        first = int(match[2]) if match else 0
        last = first + len(cls.__struct_fields__) - 1
        if match is None or not 1 <= first <= last <= _MAX_PORT:
            raise ValueError(
                f"{address!r} is not tcp://HOST:PORT with a PORT up to {_MAX_PORT - 3}; "
                "it and the next three are used"
            )
        mark = "" if keys is None else f"#{keys}"
        if keys is None:
            _require_keys(address)
        ports = zip(cls.__struct_fields__, range(first, last + 1), strict=True)
        return cls(**{name: f"tcp://{match[1]}:{port}{mark}" for name, port in ports})


def split_keys(address: str) -> tuple[str, Path | None]:
    """Return an address as ZeroMQ takes it, and the folder of CURVE keys in it."""
    endpoint, mark, folder = address.partition("#")
    if not address.startswith("tcp://") or not mark:
        return address, None
    return endpoint, Path(folder)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind_router(socket: ZmqSocket, *addresses: str) -> ZmqSocket:
    """Bind the broker's ROUTER, where sending to an unknown peer raises."""
    _harden(socket)
    _ping(socket, _BROKERS_PINGS)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # While the broker is frozen, its peers give up their connections and come again under the same
    # identities. It may accept these before it notices that the old ones are dead, and without
    # handover it would ignore them for good, though it still answers their pings. No other
    # peer knows an identity, which is random, and all peers have the same user or a known key.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return _bind(socket, addresses)


def connect_dealer(socket: ZmqSocket, address: str, role: str) -> ZmqSocket:
    """Connect a peer's DEALER, under an identity that no other process ever has."""
    _harden(socket)
    _ping(socket, _PEERS_PINGS)
    socket.setsockopt(zmq.ROUTING_ID, f"{role}-{secrets.token_hex(8)}".encode())
    socket.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing while no broker is connected
    _reconnect_soon(socket)
    return _connect(socket, address)


def bind_xpub(socket: ZmqSocket, *addresses: str) -> ZmqSocket:
    """Bind the broker's XPUB; subscribers that lag lose events and notice it by `seq`."""
    _harden(socket)
    # Only subscriptions arrive, and each of their bytes costs a node in the tree of topics.
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_TOPIC_BYTES)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    return _bind(socket, addresses)


def bind_sub(socket: ZmqSocket, *addresses: str) -> ZmqSocket:
    _harden(socket)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    return _bind(socket, addresses)


def connect_sub(socket: ZmqSocket, address: str) -> ZmqSocket:
    _harden(socket)
    _ping_far(socket, address)
    _reconnect_soon(socket)
    return _connect(socket, address)


def connect_pub(socket: ZmqSocket, address: str) -> ZmqSocket:
    """Connect a rank's PUB; heartbeats that cannot be sent at once are dropped."""
    _harden(socket)
    _ping_far(socket, address)
    _reconnect_soon(socket)
    return _connect(socket, address)


def _harden(socket: "zmq.Socket[Any]") -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.IPV6, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)


def _ping_far(socket: "zmq.Socket[Any]", address: str) -> None:
    if address.startswith("tcp://"):
        _ping(socket, _PUBLISHED_PINGS)


def _ping(socket: "zmq.Socket[Any]", pings: _Pings) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, pings.every_ms)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, pings.limit_ms)


def _reconnect_soon(socket: "zmq.Socket[Any]") -> None:
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)


def _bind(socket: ZmqSocket, addresses: Iterable[str]) -> ZmqSocket:
    # The mode of an ipc socket follows the umask: only this user may connect.
    before = os.umask(0o177)
    try:
        # Keys, once set, apply to every later bind: addresses without keys come first.
        for address in sorted(addresses, key=lambda address: split_keys(address)[1] is not None):
            _bind_one(socket, _secured(socket, address, curve.guard))
    finally:
        os.umask(before)
    return socket


def _bind_one(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        number = error.errno or 0
        advice = _BIND_ADVICE.get(number, "")
        raise BindError(f"cannot bind {endpoint}: {zmq.strerror(number)}{advice}") from error


def _connect(socket: ZmqSocket, address: str) -> ZmqSocket:
    socket.connect(_secured(socket, address, curve.unlock))
    return socket


def _secured(
    socket: "zmq.Socket[Any]", address: str, secure: Callable[["zmq.Socket[Any]", Path], None]
) -> str:
    """Give a TCP socket its keys; return the address as ZeroMQ takes it."""
    if not address.startswith("tcp://"):
        return address
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    endpoint, folder = split_keys(address)
    if folder is not None:
        secure(socket, folder)
    else:
        _require_keys(endpoint)
    return endpoint


def _require_keys(address: str) -> None:
    if not is_loopback(address.removeprefix("tcp://").rpartition(":")[0].strip("[]")):
        raise ValueError(
            f"{address} can be reached from other machines, so it needs CURVE keys; "
            "make them with `wan keys curve`"
        )
