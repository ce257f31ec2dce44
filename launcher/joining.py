"""More than one machine: where a server listens for others, and how one joins it."""

import hashlib
import logging
import secrets
import socket
import time
from pathlib import Path

import zmq

from broker.store.store import is_object_place
from broker.wire.protocol import FindProbe, ProbeChecked, front_replies, front_requests
from broker.wire.sockets import Addresses, bind_router, connect_dealer
from launcher.preflight import Folders, StartError
from launcher.probe import probing

logger = logging.getLogger("launcher")

JOIN_LIMIT_S = 30.0
_ASK_AGAIN_MS = 1000


def tcp_addresses(flag: str, address: str, keys: str | None) -> Addresses:
    """Return the addresses of a broker's sockets on TCP.

    Args:
        flag: The option that the address was given by.
        address: `tcp://HOST:PORT`.
        keys: Folder of this end's CURVE keys.

    Raises:
        StartError: If it cannot be used, for want of keys above all.
    """
    try:
        return Addresses.on_tcp(address, None if keys is None else Path(keys).resolve())
    except ValueError as error:
        raise StartError(f"{flag} {error}") from error


def try_listening(addresses: Addresses) -> None:
    """Listen for a moment, as the broker will.

    Raises:
        StartError: If an address is taken or not this machine's, or there are no keys.
    """
    for address in (addresses.requests, addresses.groups, addresses.beats, addresses.events):
        place = address.partition("#")[0]
        try:
            with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
                bind_router(router, address)
        except (zmq.ZMQError, ValueError) as error:
            raise StartError(f"--listen cannot have {place}: {error}") from error


def machine_name(folders: Folders) -> str:
    """Return what tells the groups of this launcher from all others, after restarts, too."""
    place = hashlib.sha256(str(folders.state).encode()).hexdigest()
    return f"{socket.gethostname()}-{place[:4]}"


def check_files(addresses: Addresses, folders: Folders) -> None:
    """Make sure that this machine's store of files is the broker's.

    Raises:
        StartError: If it is not, or the broker cannot be asked.
    """
    name = f"{secrets.token_hex(16)}.probe"
    with probing(folders.store, name):
        if not _is_seen(addresses, name):
            raise StartError(
                f"--store {folders.store} is not the store of files of the server that this "
                "machine joins: what is written here cannot be seen there"
            )


def check_store(folders: Folders) -> None:
    """Make sure that an object store can be used; a folder has shown it when it was made.

    Raises:
        StartError: If it cannot.
    """
    if is_object_place(folders.store):
        with probing(folders.store, f"{secrets.token_hex(16)}.probe"):
            pass


def _is_seen(addresses: Addresses, probe: str) -> bool:
    """Ask the broker whether it sees a file."""
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
            place, _, keys = addresses.requests.partition("#")
            raise StartError(
                f"--join {place}: no answer within {JOIN_LIMIT_S:g} s; see that the server runs "
                f"with --listen there, and that {keys or '--curve-keys'} has its keys"
            ) from error
        finally:
            dealer.disable_monitor()


def _ask(dealer: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]", probe: str) -> bool:
    question = [b"", *front_requests.encode(FindProbe(name=probe))]
    deadline_s = time.monotonic() + JOIN_LIMIT_S
    while time.monotonic() < deadline_s:
        if dealer.poll(_ASK_AGAIN_MS, zmq.POLLOUT):
            dealer.send_multipart(question)
        if dealer.poll(_ASK_AGAIN_MS):
            reply = front_replies.decode(dealer.recv_multipart()[1:])
            assert isinstance(reply, ProbeChecked), reply
            return reply.found
        if monitor.poll(0):
            raise ValueError("the server turns this machine away: it does not know the key")
    raise TimeoutError
