"""The route of the metrics, and how the front comes to know what they tell."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import zmq
import zmq.asyncio
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from broker.protocol import GetHealth, HealthTold, JobView, ProtocolError, job_events
from broker.sockets import connect_sub
from http_front.errors import FrontError
from http_front.handlers import HEALTH_LIMIT_S
from http_front.metrics import Metrics
from http_front.state import FRONT

logger = logging.getLogger(__name__)

METRICS = web.AppKey("metrics", Metrics)
_HEX_DIGITS = b"0123456789abcdef"


async def metrics(request: web.Request) -> web.Response:
    """Tell the metrics, also while the broker is away."""
    try:
        health = await request.app[FRONT].broker.ask(GetHealth(), HEALTH_LIMIT_S)
    except FrontError:
        health = None
    assert health is None or isinstance(health, HealthTold)
    text = request.app[METRICS].expose(health)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count each request by the route that answered it."""
    response = await handler(request)
    resource = request.match_info.route.resource
    route = "none" if resource is None else resource.canonical
    request.app[METRICS].http_requests.labels(route, str(response.status)).inc()
    return response


@asynccontextmanager
async def listening(address: str, *hearers: Callable[[JobView], None]) -> AsyncIterator[None]:
    """Have every change of every job heard."""
    context = zmq.asyncio.Context()
    socket = connect_sub(context.socket(zmq.SUB), address)
    for digit in _HEX_DIGITS:  # with what a job's id begins: previews have other topics
        socket.subscribe(bytes([digit]))
    reader = asyncio.create_task(_read(socket, hearers), name="metrics")
    try:
        yield
    finally:
        reader.cancel()
        await asyncio.wait([reader])
        context.destroy(linger=0)


async def _read(socket: zmq.asyncio.Socket, hearers: Sequence[Callable[[JobView], None]]) -> None:
    while True:
        _, *parts = await socket.recv_multipart()
        try:
            view = job_events.decode(parts)
            for hear in hearers:
                hear(view)
        except ProtocolError as error:
            logger.warning("dropped an event of the broker: %s", error)
