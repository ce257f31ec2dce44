"""Forwards the heartbeats of this machine's ranks to a broker on another machine."""

from pathlib import Path

import zmq
import zmq.asyncio

from broker.wire.sockets import bind_sub, connect_pub


class HeartbeatRelay:
    """Forwards heartbeats over one connection, so that the broker needs none to each rank.

    Args:
        ranks_address: Where this machine's ranks publish; a local socket.
        broker_address: Where the broker listens for heartbeats.
    """

    def __init__(self, ranks_address: str, broker_address: str) -> None:
        self._ranks_address = ranks_address
        self._context = zmq.asyncio.Context()
        self._ranks = bind_sub(self._context.socket(zmq.SUB), ranks_address)
        self._broker = connect_pub(self._context.socket(zmq.PUB), broker_address)

    async def run(self) -> None:
        while True:
            await self._broker.send_multipart(await self._ranks.recv_multipart())

    def restore_socket(self) -> None:
        """Bind the ranks' address again if its socket file was removed."""
        if not Path(self._ranks_address.removeprefix("ipc://")).is_socket():
            bind_sub(self._ranks, self._ranks_address)

    def close(self) -> None:
        self._context.destroy(linger=0)
