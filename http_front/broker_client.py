"""The front's connection to the broker: one DEALER socket, one future per request."""

import asyncio
import itertools
from typing import cast

import zmq

from broker.wire.errors import ErrorCode
from broker.wire.replies import FrontReply, Refused, front_replies
from broker.wire.requests import FrontRequest, ReplyT, Request, front_requests, reply_type
from broker.wire.socket_reader import SocketReader
from broker.wire.sockets import connect_dealer
from http_front.errors import FrontError

REPLY_LIMIT_S = 5.0
HEALTH_LIMIT_S = 3.0
RESEND_AFTER_S = 1.0
RECONNECT_CHECK_S = 0.1


class BrokerClient:
    """Sends requests to the broker and survives its restarts.

    A request without a reply is sent again, because a restarted broker has lost it. Every request
    is idempotent, so a second delivery does no harm.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._socket = SocketReader(connect_dealer(context.socket(zmq.DEALER), address, "front"))
        self._pending: dict[bytes, asyncio.Future[FrontReply]] = {}
        self._correlations = itertools.count()
        self._reader = asyncio.create_task(self._socket.read(self._receive), name="broker-replies")

    async def ask(self, request: Request[ReplyT], limit_s: float = REPLY_LIMIT_S) -> ReplyT:
        """Send a request and return the broker's reply, of the type that the request names.

        Raises:
            FrontError: If the broker refuses, or does not reply in time (`UNAVAILABLE`).
        """
        correlation = str(next(self._correlations)).encode()
        future = asyncio.get_running_loop().create_future()
        self._pending[correlation] = future
        try:
            reply = await self._send_until_reply(correlation, request, future, limit_s)
        finally:
            del self._pending[correlation]
        if isinstance(reply, Refused):
            raise FrontError.from_refusal(reply)
        assert isinstance(reply, reply_type(type(request))), reply
        return cast(ReplyT, reply)

    async def close(self) -> None:
        """Stop reading and close the socket. Open requests fail as unavailable."""
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._socket.close()

    async def _send_until_reply(
        self,
        correlation: bytes,
        request: Request[ReplyT],
        future: "asyncio.Future[FrontReply]",
        limit_s: float,
    ) -> FrontReply:
        parts = [correlation, *front_requests.encode(cast(FrontRequest, request))]
        deadline = asyncio.get_running_loop().time() + limit_s
        while (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            pause_s = RESEND_AFTER_S if self._socket.offer(parts) else RECONNECT_CHECK_S
            await asyncio.wait([future], timeout=min(left_s, pause_s))
            if future.done():
                return future.result()
        raise FrontError(
            ErrorCode.UNAVAILABLE,
            f"the broker did not reply within {limit_s:g} s; try again",
            retry_after_s=2,
        )

    async def _receive(self, parts: list[bytes]) -> None:
        reply = front_replies.decode(parts[1:])
        future = self._pending.get(parts[0])
        if future is not None and not future.done():
            future.set_result(reply)
