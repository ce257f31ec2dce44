"""A cable between machines: it carries TCP connections, and can go dead silently."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK_BYTES = 1 << 16


class Cable:
    """Forwards a range of loopback ports to another range, in the same order."""

    def __init__(self) -> None:
        self._pumps: set[asyncio.Task[None]] = set()
        self._ends: list[asyncio.StreamWriter] = []

    @property
    def num_connections(self) -> int:
        """How many connections have been opened, including those that are closed."""
        return len(self._ends) // 2

    def go_dead(self) -> None:
        """Stop forwarding on the open connections, as if a router had forgotten them.

        They stay open, and new connections work.
        """
        for pump in self._pumps:
            pump.cancel()

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        """Forward a connection to a port, in both directions."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        self._ends += [writer, far_writer]
        for source, target in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(_pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    def cut(self) -> None:
        self.go_dead()
        for writer in self._ends:
            writer.close()


@asynccontextmanager
async def cable(first: int, to: int, count: int = 4) -> AsyncIterator[Cable]:
    """Forward `count` ports from `first` on to those from `to` on."""
    open_cable = Cable()
    servers = []
    for offset in range(count):

        async def carry(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = to + offset
        ) -> None:
            await open_cable.carry(reader, writer, port)

        servers.append(await asyncio.start_server(carry, "127.0.0.1", first + offset))
    try:
        yield open_cable
    finally:
        for server in servers:
            server.close()
        open_cable.cut()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK_BYTES):
        target.write(chunk)
        await target.drain()
    target.close()
