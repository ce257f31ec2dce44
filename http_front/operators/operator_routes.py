"""Handlers of the health checks and the admin routes."""

from aiohttp import web

from broker.wire.requests import DrainServer, GetHealth, RemoveExpired
from http_front.access.key_guard import caller
from http_front.broker_client import HEALTH_LIMIT_S
from http_front.errors import FrontError
from http_front.operators.operator_schema import Alive, Draining, Health, Removed
from http_front.responses import json_response
from http_front.state import FRONT


async def health(request: web.Request) -> web.Response:
    """Return whether jobs are served, with one row per rank."""
    front = request.app[FRONT]
    try:
        reply = await front.broker.ask(GetHealth(), HEALTH_LIMIT_S)
    except FrontError:
        return json_response(Health(status="unhealthy"), status=503)
    body = Health.of(reply)
    if front.config.api_keys is not None and caller(request) is None:
        body = Health(status=body.status)  # without a key, reveal nothing else
    return json_response(body, status=200 if body.status == "healthy" else 503)


async def live(_request: web.Request) -> web.Response:
    """Return 200 without asking the broker: the front itself responds."""
    return json_response(Alive())


async def cleanup(request: web.Request) -> web.Response:
    reply = await request.app[FRONT].broker.ask(RemoveExpired())
    return json_response(Removed(removed=reply.removed))


async def drain(request: web.Request) -> web.Response:
    """Start no more jobs, and stop the server when the running ones finish, as SIGTERM does."""
    reply = await request.app[FRONT].broker.ask(DrainServer())
    return json_response(Draining(running=reply.running), status=202)
