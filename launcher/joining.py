"""More than one machine: listening for groups and fronts, and joining a server elsewhere."""

import contextlib
import hashlib
import logging
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zmq

from broker.store.store import PARTIAL, VIDEOS, Move, Store, StoreError, is_object_place
from broker.wire.errors import BindError
from broker.wire.replies import ProbeChecked, front_replies
from broker.wire.requests import FindProbe, front_requests
from broker.wire.sockets import Addresses, bind_router, connect_dealer
from launcher.preflight import Folders, StartError, store_at

logger = logging.getLogger("launcher")

JOIN_LIMIT_S = 30.0
_RETRY_MS = 1000


def tcp_addresses(flag: str, address: str, keys: str | None) -> Addresses:
    """Return the TCP addresses of a broker's sockets.

    Args:
        flag: The option that the address comes from, for error messages.
        address: `tcp://HOST:PORT`.
        keys: Folder of this end's CURVE keys.

    Raises:
        StartError: If the address is invalid, or needs CURVE keys and has none.
    """
    try:
        return Addresses.on_tcp(address, None if keys is None else Path(keys).resolve())
    except ValueError as error:
        raise StartError(f"{flag} {error}") from error


def try_listening(addresses: Addresses) -> None:
    """Bind and release each address, as the broker will bind them.

    Raises:
        StartError: If an address is in use or not on this machine, or its keys are unusable.
    """
    for address in (addresses.requests, addresses.groups, addresses.beats, addresses.events):
        try:
            with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
                bind_router(router, address)
        except BindError as error:
            raise StartError(f"--listen {error}") from error
        except ValueError as error:
            endpoint = address.partition("#")[0]
            raise StartError(f"--listen cannot bind {endpoint}: {error}") from error


def machine_name(folders: Folders) -> str:
    """Return a name for this launcher's groups: unique to it, and the same after a restart."""
    digest = hashlib.sha256(str(folders.state).encode()).hexdigest()
    return f"{socket.gethostname()}-{digest[:4]}"


def check_files(addresses: Addresses, folders: Folders) -> None:
    """Check that this machine and the broker use the same store.

    Raises:
        StartError: If they do not, or the broker does not answer.
    """
    name = f"{secrets.token_hex(16)}.probe"
    with _probe_file(folders.store, name):
        if not _is_seen(addresses, name):
            raise StartError(
                f"--store {folders.store} is not the store of the server that this machine joins: "
                "the server does not see a file written here"
            )


def check_store(folders: Folders) -> None:
    """Write, read, list and delete a small file, if the store is an object store.

    A folder needs no such check: making it has shown that it can be written to.

    Raises:
        StartError: If one of these fails.
    """
    if is_object_place(folders.store):
        with _probe_file(folders.store, f"{secrets.token_hex(16)}.probe"):
            pass


@contextlib.contextmanager
def _probe_file(place: str, name: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="wan-probe-") as work_dir:
        store = store_at(place, work_dir)
        probe = store.partial(VIDEOS) / name
        try:
            with _stored(store, name):
                yield
        except StoreError as error:
            raise StartError(
                f"--store {place}: {error}; see AWS_ENDPOINT_URL, AWS_REGION and the credentials, "
                "and their permissions on the bucket"
            ) from error
        except OSError as error:
            raise StartError(
                f"--store {place}: {probe.parent}: {error.strerror}; name the path at which this "
                "machine sees the server's folder of files"
            ) from error


@contextlib.contextmanager
def _stored(store: Store, name: str) -> Iterator[None]:
    probe, stored = store.partial(VIDEOS) / name, f"{PARTIAL}/{name}"
    probe.touch(0o600, exist_ok=False)
    try:
        store.put([Move(probe, stored)])
        store.fetch(stored)
        store.names(PARTIAL)
        yield
    finally:
        store.delete([stored])


def _is_seen(addresses: Addresses, probe: str) -> bool:
    with (
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
        dealer.get_monitor_socket(zmq.Event.HANDSHAKE_FAILED_AUTH) as monitor,
    ):
        try:
            connect_dealer(dealer, addresses.requests, "launcher")
            return _ask(dealer, monitor, probe)
        except ValueError as error:
            raise StartError(f"--join {error}") from error
        except TimeoutError as error:
            endpoint, _, keys = addresses.requests.partition("#")
            raise StartError(
                f"--join {endpoint}: no answer within {JOIN_LIMIT_S:g} s; check that the server "
                f"runs with --listen there, and that {keys or '--curve-keys'} has its keys"
            ) from error
        finally:
            dealer.disable_monitor()


def _ask(dealer: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]", probe: str) -> bool:
    request = [b"", *front_requests.encode(FindProbe(name=probe))]
    deadline_s = time.monotonic() + JOIN_LIMIT_S
    while time.monotonic() < deadline_s:
        if dealer.poll(_RETRY_MS, zmq.POLLOUT):
            dealer.send_multipart(request)
        if dealer.poll(_RETRY_MS):
            reply = front_replies.decode(dealer.recv_multipart()[1:])
            assert isinstance(reply, ProbeChecked), reply
            return reply.found
        if monitor.poll(0):
            raise ValueError("the server rejects this machine: it does not know the key")
    raise TimeoutError
