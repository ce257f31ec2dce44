"""A cable between machines: it carries TCP connections, and can go dead without a word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK_BYTES = 1 << 16


class Cable:
    """Carries what comes to some ports of loopback to others, in the same order."""

    def __init__(self) -> None:
        self._pumps: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []

    @property
    def num_connections(self) -> int:
        """How many connections there have been."""
        return len(self._ends) // 2

    def go_dead(self) -> None:
        """Carry nothing more on the connections that there are; they stay open, and new ones work.

        So it is where a router on the way has forgotten them.
        """
        for pump in self._pumps:
            pump.cancel()

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        """Carry a connection to a port, both ways."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        self._ends += [writer, far_writer]
        for source, target in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(_pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    def cut(self) -> None:
        """Close every connection."""
        self.go_dead()
        for writer in self._ends:
            writer.close()


@asynccontextmanager
async def cable(first: int, to: int, count: int = 4) -> AsyncIterator[Cable]:
    """Lay a cable from as many ports, `first` the lowest, to those from `to` on."""
    laid = Cable()
    servers = []
    for offset in range(count):

        async def carry(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = to + offset
        ) -> None:
            await laid.carry(reader, writer, port)

        servers.append(await asyncio.start_server(carry, "127.0.0.1", first + offset))
    try:
        yield laid
    finally:
        for server in servers:
            server.close()
        laid.cut()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK_BYTES):
        target.write(chunk)
        await target.drain()
    target.close()
