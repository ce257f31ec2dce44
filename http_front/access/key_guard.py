"""The middleware that requires an API key and enforces the rate limits of each key."""

import asyncio
import math
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from broker.wire.errors import ErrorCode
from http_front.access.keys import ApiKey, KeyRing
from http_front.access.rates import AddressRates, KeyRates, client_of
from http_front.errors import FrontError

UNAUTHORIZED_PER_MINUTE = 30
"""Requests without a valid key that one address may send."""
PROTOCOL = "wan"
"""Subprotocol of our WebSockets. A client may offer `bearer.KEY` beside it to send an API key."""
_KEY_PROTOCOL = "bearer."
_MAX_ADDRESSES = 10_000
_CHECK_EVERY_S = 2.0
_CALLER = web.RequestKey("caller", ApiKey)
_RING = web.RequestKey("ring", KeyRing)

# These paths reveal nothing about jobs, so that monitoring needs no key.
OPEN_PATHS = frozenset({"/", "/favicon.ico", "/live", "/health", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/static/"
_SUBMIT_PATHS = frozenset({"/video/submit", "/v1/videos", "/v1/videos/sync"})
_ADMIN_FOLDER = "/admin/"
_METRICS_PATH = "/metrics"


def caller(request: web.Request) -> ApiKey | None:
    """Return the API key of a request; None if the route or the server requires none."""
    return request.get(_CALLER)


def owner(request: web.Request) -> str | None:
    """Return the owner whose jobs a request may use; None means all jobs (no key file)."""
    key = caller(request)
    return None if key is None else key.name


def party(request: web.Request) -> str:
    """Return whom a request counts against where work is shared: the owner, else the address."""
    return owner(request) or client_of(request.remote or "")


def may_administer(request: web.Request) -> bool:
    """Return whether the caller has an administrator's key, or the server requires no key."""
    key = caller(request)
    return key is None or key.admin


def queue_share(request: web.Request) -> int | None:
    """Return how many jobs the caller may have in the queue; None means no limit per key."""
    key = caller(request)
    return None if key is None else key.limits.queue_share


async def until_removed(request: web.Request) -> None:
    """Wait until the key of a request is removed. Without a key this never returns."""
    key = caller(request)
    if key is None:
        await asyncio.Event().wait()
    else:
        while request[_RING].has(key):  # noqa: ASYNC110 (a file sends no event)
            await asyncio.sleep(_CHECK_EVERY_S)


def make_key_guard(path: str) -> Middleware:
    """Return the middleware that checks keys against a key file.

    Raises:
        KeyFileError: If the file cannot be read.
    """
    ring = KeyRing(Path(path))
    rates: dict[ApiKey, KeyRates] = {}
    unauthorized = AddressRates(UNAUTHORIZED_PER_MINUTE, 60.0, _MAX_ADDRESSES)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        token = _bearer_token(request)
        if token is None and _is_open(request.path):
            return await handler(request)
        key = None if token is None else ring.find(token)
        if key is None:
            raise _unauthorized(request, token, unauthorized)
        # A key whose limits changed in the file starts with full buckets.
        _check_rate(request, rates.setdefault(key, KeyRates(key.limits)))
        if _is_for_admins(request.path) and not key.admin:
            raise FrontError(ErrorCode.FORBIDDEN, "this route needs an administrator's key")
        request[_CALLER], request[_RING] = key, ring
        return await handler(request)

    return guard


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(_OPEN_FOLDER)


def _is_for_admins(path: str) -> bool:
    return path == _METRICS_PATH or path.startswith(_ADMIN_FOLDER)


def _bearer_token(request: web.Request) -> str | None:
    """Return the bearer token of a request, "" if it is malformed, None if there is none."""
    headers = request.headers.getall("Authorization", [])
    if not headers:
        return _token_in_protocols(request)
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        return ""
    return token.strip(" ")


def _token_in_protocols(request: web.Request) -> str | None:
    """Return the key in the WebSocket subprotocols, the only header that a page can set."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    tokens = [
        name.strip().removeprefix(_KEY_PROTOCOL)
        for name in offered
        if name.strip().startswith(_KEY_PROTOCOL)
    ]
    return tokens[0] if tokens else None


def _unauthorized(request: web.Request, token: str | None, rates: AddressRates) -> FrontError:
    """Return the error for a request without a valid key: 401, or 429 if an address sends many.

    Requests with a valid key are not counted here. Behind a proxy all clients share one address,
    and one that guesses keys must not lock out the others. The limit does not protect the keys:
    32 random bytes cannot be guessed at any rate.
    """
    wait_s = rates.take(request.remote or "", asyncio.get_running_loop().time())
    if wait_s:
        return _too_many("without a valid key", wait_s)
    if token:
        message = "this API key is not valid: it is misspelt, or was removed"
    elif token == "":
        message = "the Authorization header is malformed; send Authorization: Bearer KEY"
    else:
        message = "an API key is required; send Authorization: Bearer KEY"
    return FrontError(ErrorCode.UNAUTHORIZED, message)


def _check_rate(request: web.Request, rates: KeyRates) -> None:
    is_submit = request.method == "POST" and request.path in _SUBMIT_PATHS
    bucket = rates.submits if is_submit else rates.requests
    wait_s = bucket.take(asyncio.get_running_loop().time())
    if wait_s:
        raise _too_many("with this key", wait_s)


def _too_many(which: str, wait_s: float) -> FrontError:
    return FrontError(
        ErrorCode.RATE_LIMITED,
        f"too many requests {which}; try again in {wait_s:.1f} s",
        retry_after_s=math.ceil(wait_s),
    )
