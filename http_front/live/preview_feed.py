"""Previews of running jobs: each watcher gets the newest picture there is, and none twice."""

import asyncio
from collections.abc import AsyncGenerator

import zmq

from broker.wire.protocol import job_previews, preview_topic
from broker.wire.socket_reader import SocketReader
from broker.wire.sockets import connect_sub


class PreviewFeed:
    """Hears the broker's previews, on a socket of its own: they may be lost, changes may not."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._line = SocketReader(connect_sub(context.socket(zmq.SUB), address))
        self._slots: dict[bytes, set[_Slot]] = {}
        self._reader = asyncio.create_task(self._line.read(self._hear), name="broker-previews")

    async def watch(self, job_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the JPEG of each preview of a job; whoever is slow misses some. Never ends."""
        topic, slot = preview_topic(job_id), _Slot()
        slots = self._slots.setdefault(topic, set())
        if not slots:
            self._line.subscribe(topic)
        slots.add(slot)
        try:
            while True:
                yield await slot.take()
        finally:
            slots.remove(slot)
            if not slots:
                del self._slots[topic]
                self._line.unsubscribe(topic)

    async def close(self) -> None:
        """Stop reading and close the socket."""
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._line.close()

    async def _hear(self, parts: list[bytes]) -> None:
        preview = job_previews.decode(parts[1:])
        for slot in self._slots.get(parts[0], ()):
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
