"""Previews of running jobs: each watcher gets the newest picture there is, and none twice."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import zmq
import zmq.asyncio

from broker.protocol import ProtocolError, job_previews, preview_topic
from broker.sockets import connect_sub

logger = logging.getLogger(__name__)


class PreviewFeed:
    """Hears the broker's previews, on a socket of its own: they may be lost, changes may not."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self._socket = connect_sub(context.socket(zmq.SUB), address)
        self._slots: dict[bytes, set[_Slot]] = {}
        self._reader = asyncio.create_task(self._read(), name="broker-previews")

    async def watch(self, job_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the JPEG of each preview of a job; whoever is slow misses some. Never ends."""
        topic, slot = preview_topic(job_id), _Slot()
        slots = self._slots.setdefault(topic, set())
        if not slots:
            self._socket.subscribe(topic)
        slots.add(slot)
        try:
            while True:
                yield await slot.take()
        finally:
            slots.remove(slot)
            if not slots:
                del self._slots[topic]
                self._socket.unsubscribe(topic)

    async def close(self) -> None:
        """Stop reading and close the socket."""
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._socket.close(linger=0)

    async def _read(self) -> None:
        while True:
            topic, *parts = await self._socket.recv_multipart()
            try:
                preview = job_previews.decode(parts)
            except ProtocolError as error:
                logger.warning("dropped a preview: %s", error)
                continue
            for slot in self._slots.get(topic, ()):
                slot.put(preview.jpeg)


class _Slot:
    """Room for one picture."""

    def __init__(self) -> None:
        self._picture = b""
        self._filled = asyncio.Event()

    def put(self, picture: bytes) -> None:
        self._picture = picture
        self._filled.set()

    async def take(self) -> bytes:
        await self._filled.wait()
        self._filled.clear()
        return self._picture
