"""The middleware that keeps out what a browser sends on behalf of another site."""

from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from broker.wire.protocol import ErrorCode
from broker.wire.sockets import is_loopback
from http_front.config import FrontConfig
from http_front.errors import FrontError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_PREFLIGHT_ANSWER = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Range",
    "Access-Control-Max-Age": "600",
}


def make_gate(config: FrontConfig) -> Middleware:
    """Return the middleware for a configuration.

    A page of another site can point its own name at us (DNS rebinding), so a server on loopback
    answers to its own names only. One on a public address cannot know all its names: there the
    check is on only if `allowed_hosts` names them.
    """
    names = None
    if config.allowed_hosts or is_loopback(config.host):
        own = (config.host, *config.allowed_hosts)
        names = _LOOPBACK_NAMES | {name.lower() for name in own}

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, names)
        _check_origin(request, config.cors_origins)
        if _is_preflight(request):
            return web.Response(status=204, headers=_PREFLIGHT_ANSWER)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise FrontError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding"
            )
        return await handler(request)

    return gate


def allow_origin(
    request: web.Request, response: web.StreamResponse, origins: Sequence[str]
) -> None:
    """Let a page of one of these sites read an answer; never with its user's cookies."""
    if not origins:
        return
    response.headers["Vary"] = "Origin"
    origin = request.headers.get("Origin")
    if origin is not None and origin in origins:
        response.headers["Access-Control-Allow-Origin"] = origin


def _is_preflight(request: web.Request) -> bool:
    """Whether a browser asks first; an `Origin` that may not has been refused by now."""
    headers = request.headers
    return (
        request.method == "OPTIONS"
        and "Origin" in headers
        and "Access-Control-Request-Method" in headers
    )


def _check_host(request: web.Request, names: frozenset[str] | None) -> None:
    host = _host_name(request.headers.get("Host", ""))
    if not host or (names is not None and host not in names):
        raise FrontError(ErrorCode.FORBIDDEN, "the Host header names no host of this server")


def _host_name(header: str) -> str | None:
    try:
        return URL(f"http://{header}").host
    except ValueError:
        return None


def _check_origin(request: web.Request, others: Sequence[str]) -> None:
    """Refuse other sites' pages; programs send no Origin. Origins are compared whole."""
    origin = request.headers.get("Origin")
    host = request.headers.get("Host", "")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}", *others):
        raise FrontError(ErrorCode.FORBIDDEN, "pages of other sites may not use this server")
