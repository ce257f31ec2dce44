"""The middleware that asks for an API key, and keeps each key within its rates."""

import asyncio
import math
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from broker.wire.protocol import ErrorCode
from http_front.access.keys import ApiKey, KeyRing
from http_front.access.rates import AddressRates, KeyRates
from http_front.errors import FrontError

STRANGERS_PER_MINUTE = 30
"""How often one address may come without a good key."""
PROTOCOL = "wan"
"""What our WebSockets speak, for clients that ask; `bearer.KEY` beside it shows an API key."""
_KEY_PROTOCOL = "bearer."
_MAX_ADDRESSES = 10_000
_LOOK_EVERY_S = 2.0
_CALLER = web.RequestKey("caller", ApiKey)
_RING = web.RequestKey("ring", KeyRing)

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


async def until_removed(request: web.Request) -> None:
    """Return soon after the key of a request has been removed; never where none was asked for."""
    key = caller(request)
    if key is None:
        await asyncio.Event().wait()
    else:
        while request[_RING].has(key):  # noqa: ASYNC110 (a file tells of no event)
            await asyncio.sleep(_LOOK_EVERY_S)


def make_key_guard(path: str) -> Middleware:
    """Return the middleware for a file of keys.

    Raises:
        KeyFileError: If the file cannot be read.
    """
    ring = KeyRing(Path(path))
    rates: dict[ApiKey, KeyRates] = {}
    strangers = AddressRates(STRANGERS_PER_MINUTE, 60.0, _MAX_ADDRESSES)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = _shown_key(request)
        if shown is None and _is_open(request.path):
            return await handler(request)
        key = None if shown is None else ring.find(shown)
        if key is None:
            raise _unauthorized(request, strangers)
        # A key whose limits were changed in the file starts afresh.
        _keep_rate(request, rates.setdefault(key, KeyRates(key.limits)))
        if _is_for_admins(request.path) and not key.admin:
            raise FrontError(ErrorCode.FORBIDDEN, "this address needs the key of an administrator")
        request[_CALLER], request[_RING] = key, ring
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


def _unauthorized(request: web.Request, strangers: AddressRates) -> FrontError:
    """Return the error for a request without a good key; an address that sends many gets 429.

    Good keys are not held to this. Behind a proxy all clients have one address, and whoever guesses
    there must not lock the others out; 32 random bytes are not guessed at any rate.
    """
    wait_s = strangers.take(request.remote or "", asyncio.get_running_loop().time())
    if wait_s:
        return _too_many("without a valid key", wait_s)
    return FrontError(ErrorCode.UNAUTHORIZED, "show a valid API key: Authorization: Bearer …")


def _keep_rate(request: web.Request, rates: KeyRates) -> None:
    is_submit = request.method == "POST" and request.path in _SUBMIT_PATHS
    bucket = rates.submits if is_submit else rates.requests
    wait_s = bucket.take(asyncio.get_running_loop().time())
    if wait_s:
        raise _too_many("with this key", wait_s)


def _too_many(whose: str, wait_s: float) -> FrontError:
    return FrontError(
        ErrorCode.RATE_LIMITED,
        f"too many requests {whose}; the next may come in {wait_s:.1f} s",
        retry_after_s=math.ceil(wait_s),
    )
