"""Delivers previews of running jobs: each watcher gets the newest one, and none twice."""

import asyncio
from collections.abc import AsyncGenerator

import zmq

from broker.wire.events import job_previews, preview_topic
from broker.wire.socket_reader import SocketReader
from broker.wire.sockets import connect_sub


class PreviewFeed:
    """Receives the broker's previews, on a separate socket: previews may be lost, events not."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._socket = SocketReader(connect_sub(context.socket(zmq.SUB), address))
        self._slots: dict[bytes, set[_Slot]] = {}
        self._reader = asyncio.create_task(self._socket.read(self._receive), name="broker-previews")

    async def watch(self, job_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the JPEG of each preview of a job, without end. A slow watcher misses some."""
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
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._socket.close()

    async def _receive(self, parts: list[bytes]) -> None:
        preview = job_previews.decode(parts[1:])
        for slot in self._slots.get(parts[0], ()):
            slot.put(preview.jpeg)


class _Slot:
    """Holds one picture; a newer one replaces it."""

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
