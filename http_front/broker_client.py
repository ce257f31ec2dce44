"""The front's line to the broker: one DEALER, one future per request, one reader."""

import asyncio
import itertools

import zmq

from broker.wire.protocol import (
    ErrorCode,
    FrontReply,
    FrontRequest,
    Refused,
    front_replies,
    front_requests,
)
from broker.wire.socket_reader import SocketReader
from broker.wire.sockets import connect_dealer
from http_front.errors import FrontError

ANSWER_LIMIT_S = 5.0
RESEND_AFTER_S = 1.0
RECONNECT_CHECK_S = 0.1


class BrokerClient:
    """Asks the broker; survives its restarts.

    An unanswered request is sent again: a broker that was restarted has forgotten it, and every
    request means the same when it comes twice.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._line = SocketReader(connect_dealer(context.socket(zmq.DEALER), address, "front"))
        self._pending: dict[bytes, asyncio.Future[FrontReply]] = {}
        self._correlations = itertools.count()
        self._reader = asyncio.create_task(self._line.read(self._take), name="broker-replies")

    async def ask(self, request: FrontRequest, limit_s: float = ANSWER_LIMIT_S) -> FrontReply:
        """Return the broker's answer.

        Raises:
            FrontError: If the broker refuses, or does not answer in time (`UNAVAILABLE`).
        """
        correlation = str(next(self._correlations)).encode()
        future = asyncio.get_running_loop().create_future()
        self._pending[correlation] = future
        try:
            reply = await self._send_until_answered(correlation, request, future, limit_s)
        finally:
            del self._pending[correlation]
        if isinstance(reply, Refused):
            raise FrontError.from_refusal(reply)
        return reply

    async def close(self) -> None:
        """Stop reading and close the socket; open requests end as unavailable."""
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._line.close()

    async def _send_until_answered(
        self,
        correlation: bytes,
        request: FrontRequest,
        future: "asyncio.Future[FrontReply]",
        limit_s: float,
    ) -> FrontReply:
        parts = [correlation, *front_requests.encode(request)]
        deadline = asyncio.get_running_loop().time() + limit_s
        while (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            pause_s = RESEND_AFTER_S if self._line.offer(parts) else RECONNECT_CHECK_S
            await asyncio.wait([future], timeout=min(left_s, pause_s))
            if future.done():
                return future.result()
        raise FrontError(
            ErrorCode.UNAVAILABLE, "the job queue does not answer; try again", retry_after_s=2
        )

    async def _take(self, parts: list[bytes]) -> None:
        reply = front_replies.decode(parts[1:])
        future = self._pending.get(parts[0])
        if future is not None and not future.done():
            future.set_result(reply)
