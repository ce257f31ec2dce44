"""The sockets of the broker and its peers, where ZeroMQ's defaults would not do."""

import tempfile
from collections.abc import Iterator

import pytest
import zmq

from broker.wire.sockets import bind_router

LIMIT_MS = 10_000
IDENTITY = b"front-1"


@pytest.fixture
def context() -> "Iterator[zmq.Context[zmq.Socket[bytes]]]":
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def peer(context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.ROUTING_ID, IDENTITY)
    socket.connect(address)
    return socket


def exchange(router: "zmq.Socket[bytes]", dealer: "zmq.Socket[bytes]", text: bytes) -> None:
    dealer.send(text)
    assert router.poll(LIMIT_MS), f"the broker does not hear {text!r}"
    assert router.recv_multipart() == [IDENTITY, text]
    router.send_multipart([IDENTITY, text])
    assert dealer.poll(LIMIT_MS), f"the peer gets no answer to {text!r}"
    assert dealer.recv() == text


def test_a_peer_that_comes_again_is_heard_though_its_old_connection_seems_alive(
    context: "zmq.Context[zmq.Socket[bytes]]",
) -> None:
    """A frozen broker wakes up with both connections open, and must answer on the newer one."""
    with tempfile.TemporaryDirectory(prefix="wan-") as run_dir:
        address = f"ipc://{run_dir}/groups.sock"
        router = bind_router(context.socket(zmq.ROUTER), address)
        with peer(context, address) as old:
            exchange(router, old, b"before")
            with peer(context, address) as new:
                exchange(router, new, b"after")
        router.close()
