"""A ZeroMQ socket in an event loop, read many messages at a time when they arrive in bursts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import zmq

from broker.wire.errors import ProtocolError
from broker.wire.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

GATHER_S = 0.005
_MAX_TAKEN = 200

Handle = Callable[[list[bytes]], Awaitable[None]]


class SocketReader:
    """A socket in the running event loop; no other code may use the socket.

    pyzmq's asyncio socket wakes for each message, which costs several times as much as handling
    one. ZeroMQ makes a descriptor readable when the first message arrives at an empty socket, and
    any operation on the socket may clear that. So the reader waits for the descriptor only when no
    message is left, and looks for messages after every other operation.
    """

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self._readable = asyncio.Event()

    async def read(self, handle: Handle, pause_s: float = 0.0) -> None:
        """Pass on each message, forever; one that cannot be decoded is logged and dropped.

        Args:
            handle: Takes the parts of each message, in the order of arrival.
            pause_s: How long to let messages gather when several arrive at once.
        """
        drops = RateLimitedLog()
        while True:
            self._readable.clear()
            arrived = self._take()
            for parts in arrived:
                try:
                    await handle(parts)
                except ProtocolError as error:
                    drops.log(error)
            if not arrived:
                await self._wait()
            elif len(arrived) > 1:
                # With more waiting than is taken at a time, only other tasks run in between.
                await asyncio.sleep(pause_s if len(arrived) < _MAX_TAKEN else 0.0)

    def send(self, parts: Sequence[bytes], message: object) -> None:
        """Send at once or not at all, so that a lost peer does not delay the others.

        The log names the `message` if it cannot be sent.
        """
        try:
            self._send(parts)
        except zmq.ZMQError as error:
            logger.warning("could not send %s: %s", type(message).__name__, error)

    def offer(self, parts: Sequence[bytes]) -> bool:
        """Send at once; return whether a peer was there to take it."""
        try:
            self._send(parts)
        except zmq.Again:
            return False
        return True

    def subscribe(self, topic: bytes) -> None:
        self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._readable.set()

    def unsubscribe(self, topic: bytes) -> None:
        self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        self._readable.set()

    def close(self, linger_ms: int = 0) -> None:
        self._socket.close(linger_ms)

    def _send(self, parts: Sequence[bytes]) -> None:
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        finally:
            self._readable.set()

    def _take(self) -> list[list[bytes]]:
        """Return up to `_MAX_TAKEN` messages that have arrived; none only if none is left."""
        arrived: list[list[bytes]] = []
        with suppress(zmq.Again):
            while len(arrived) < _MAX_TAKEN:
                arrived.append(self._socket.recv_multipart(zmq.NOBLOCK))
        return arrived

    async def _wait(self) -> None:
        loop, descriptor = asyncio.get_running_loop(), self._socket.FD
        loop.add_reader(descriptor, self._readable.set)
        try:
            await self._readable.wait()
        finally:
            loop.remove_reader(descriptor)
