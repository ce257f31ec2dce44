"""A ZeroMQ socket in an event loop: what comes in crowds is read many messages at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import zmq

from broker.wire.protocol import ProtocolError
from broker.wire.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

GATHER_S = 0.005
_MAX_TAKEN = 200

Handle = Callable[[list[bytes]], Awaitable[None]]
"""Takes the parts of a message."""


class SocketReader:
    """A socket in the running event loop; it belongs to the line from here on.

    An asyncio socket of pyzmq is woken by each message, which costs several times what it takes to
    handle one. ZeroMQ gives a sign, on a descriptor, when messages come where there were none, and
    whatever is done on the socket may take the sign away. So the line waits for it only when
    nothing is left, and looks again after all else that it does.
    """

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self._sign = asyncio.Event()

    async def read(self, handle: Handle, pause_s: float = 0.0) -> None:
        """Hand over each message, for ever; one that cannot be decoded ends nothing.

        Args:
            handle: Takes the messages in their order.
            pause_s: How long to let messages gather, undisturbed, once they come thick.
        """
        drops = RateLimitedLog()
        while True:
            self._sign.clear()
            arrived = self._take()
            for parts in arrived:
                try:
                    await handle(parts)
                except ProtocolError as error:
                    drops.tell(error)
            if not arrived:
                await self._wait()
            elif len(arrived) > 1:
                # Who has more to hear than it takes at a time goes on once others had their turn.
                await asyncio.sleep(pause_s if len(arrived) < _MAX_TAKEN else 0.0)

    def send(self, parts: Sequence[bytes], message: object) -> None:
        """Send at once or not at all: a peer that is gone must not hold up the rest.

        Args:
            parts: To be sent.
            message: What they are, for the log.
        """
        try:
            self._send(parts)
        except zmq.ZMQError as error:
            logger.warning("could not send %s: %s", type(message).__name__, error)

    def offer(self, parts: Sequence[bytes]) -> bool:
        """Send at once; return whether there was anybody to take it."""
        try:
            self._send(parts)
        except zmq.Again:
            return False
        return True

    def subscribe(self, topic: bytes) -> None:
        """Hear what begins with a topic, on a SUB."""
        self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._sign.set()

    def unsubscribe(self, topic: bytes) -> None:
        """Take a `subscribe` back."""
        self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        self._sign.set()

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket, once what was sent last has had so much time to leave."""
        self._socket.close(linger_ms)

    def _send(self, parts: Sequence[bytes]) -> None:
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        finally:
            self._sign.set()

    def _take(self) -> list[list[bytes]]:
        """Return what has arrived, up to a number; nothing only if nothing is left."""
        arrived: list[list[bytes]] = []
        with suppress(zmq.Again):
            while len(arrived) < _MAX_TAKEN:
                arrived.append(self._socket.recv_multipart(zmq.NOBLOCK))
        return arrived

    async def _wait(self) -> None:
        loop, descriptor = asyncio.get_running_loop(), self._socket.FD
        loop.add_reader(descriptor, self._sign.set)
        try:
            await self._sign.wait()
        finally:
            loop.remove_reader(descriptor)
