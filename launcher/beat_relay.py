"""Passes on what the ranks of this machine publish, over one connection to a broker elsewhere."""

import zmq
import zmq.asyncio

from broker.wire.sockets import bind_sub, connect_pub


class HeartbeatRelay:
    """Stands between the ranks here and the broker, which would else have a line to each of them.

    Args:
        ear: Where the ranks publish, on this machine only.
        beats: Where the broker listens.
    """

    def __init__(self, ear: str, beats: str) -> None:
        self._context = zmq.asyncio.Context()
        self._ranks = bind_sub(self._context.socket(zmq.SUB), ear)
        self._broker = connect_pub(self._context.socket(zmq.PUB), beats)

    async def run(self) -> None:
        """Pass on, until the relay is closed."""
        while True:
            await self._broker.send_multipart(await self._ranks.recv_multipart())

    def close(self) -> None:
        """Close both ends."""
        self._context.destroy(linger=0)
