"""The middleware that asks for an API key, and keeps each key within its rates."""

import asyncio
import math
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from broker.protocol import ErrorCode
from http_front.errors import FrontError
from http_front.keys import ApiKey, KeyRing
from http_front.rates import KeyRates

PROTOCOL = "wan"
"""What our WebSockets speak, for clients that ask; `bearer.KEY` beside it shows an API key."""
_KEY_PROTOCOL = "bearer."
_CALLER = web.RequestKey("caller", ApiKey)

# They tell nothing of any job; whoever watches over the server needs no key.
OPEN_PATHS = frozenset({"/", "/live", "/health", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/static/"
_SUBMIT_PATHS = frozenset({"/video/submit", "/v1/videos"})
_ADMIN_FOLDER = "/admin/"
_METRICS_PATH = "/metrics"


def caller(request: web.Request) -> ApiKey | None:
    """Return the key that a request has shown; None where none was asked for."""
    return request.get(_CALLER)


def owner(request: web.Request) -> str | None:
    """Return whose jobs a request is about; None is everybody's, as without a file of keys."""
    key = caller(request)
    return None if key is None else key.name


def queue_share(request: web.Request) -> int | None:
    """Return how many jobs of the request's owner may wait; None is as many as the queue takes."""
    key = caller(request)
    return None if key is None else key.limits.queue_share


def make_key_guard(path: str) -> Middleware:
    """Return the middleware for a file of keys.

    Raises:
        KeyFileError: If the file cannot be read.
    """
    ring = KeyRing(Path(path))
    rates: dict[ApiKey, KeyRates] = {}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = _shown_key(request)
        if shown is None and _is_open(request.path):
            return await handler(request)
        key = None if shown is None else ring.find(shown)
        if key is None:
            raise FrontError(
                ErrorCode.UNAUTHORIZED, "show a valid API key: Authorization: Bearer …"
            )
        # A key whose limits were changed in the file starts afresh.
        _keep_rate(request, rates.setdefault(key, KeyRates(key.limits)))
        if _is_for_admins(request.path) and not key.admin:
            raise FrontError(ErrorCode.FORBIDDEN, "this address needs the key of an administrator")
        request[_CALLER] = key
        return await handler(request)

    return guard


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(_OPEN_FOLDER)


def _is_for_admins(path: str) -> bool:
    return path == _METRICS_PATH or path.startswith(_ADMIN_FOLDER)


def _shown_key(request: web.Request) -> str | None:
    """Return the bearer token of a request; None if it shows nothing at all."""
    headers = request.headers.getall("Authorization", [])
    if not headers:
        return _key_among_protocols(request)
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        return ""
    return token.strip(" ")


def _key_among_protocols(request: web.Request) -> str | None:
    """Return the key that a page shows with a WebSocket: a browser lets it write nowhere else."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    keys = [
        name.strip().removeprefix(_KEY_PROTOCOL)
        for name in offered
        if name.strip().startswith(_KEY_PROTOCOL)
    ]
    return keys[0] if keys else None


def _keep_rate(request: web.Request, rates: KeyRates) -> None:
    is_submit = request.method == "POST" and request.path in _SUBMIT_PATHS
    bucket = rates.submits if is_submit else rates.requests
    wait_s = bucket.take(asyncio.get_running_loop().time())
    if wait_s:
        raise FrontError(
            ErrorCode.RATE_LIMITED,
            f"too many requests with this key; the next may come in {wait_s:.1f} s",
            retry_after_s=math.ceil(wait_s),
        )
