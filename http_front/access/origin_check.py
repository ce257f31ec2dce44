"""The middleware that refuses requests a browser sends on behalf of another site."""

import re
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from broker.wire.errors import ErrorCode
from broker.wire.sockets import is_loopback
from http_front.config import FrontConfig
from http_front.errors import FrontError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# A host and a port alone: the URL parser would also take a user name or a path.
_HOST = re.compile(r"[^@/?#\\\s]+")
_PREFLIGHT_ANSWER = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Range",
    "Access-Control-Max-Age": "600",
}


def make_origin_check(config: FrontConfig) -> Middleware:
    """Return the middleware that checks the Host and Origin headers.

    Another site can point its own host name at this server (DNS rebinding). A server on loopback
    therefore accepts only its own names. A server on a public address cannot know all its names,
    so it checks the Host header only if `allowed_hosts` lists them.
    """
    names = None
    if config.allowed_hosts or is_loopback(config.host):
        own = (config.host, *config.allowed_hosts)
        names = _LOOPBACK_NAMES | {_canonical(name) for name in own}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, names)
        _check_origin(request, config.cors_origins)
        if _is_preflight(request):
            return web.Response(status=204, headers=_PREFLIGHT_ANSWER)
        encodings = request.headers.getall("Content-Encoding", [])
        if any(encoding.lower() != "identity" for encoding in encodings):
            raise FrontError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding"
            )
        return await handler(request)

    return check


def add_cors_headers(
    request: web.Request, response: web.StreamResponse, origins: Sequence[str]
) -> None:
    """Let pages of the allowed origins read the response, without credentials."""
    if not origins:
        return
    response.headers["Vary"] = "Origin"
    origin = request.headers.get("Origin")
    if origin is not None and origin in origins:
        response.headers["Access-Control-Allow-Origin"] = origin


def _is_preflight(request: web.Request) -> bool:
    """Whether this is a CORS preflight. `_check_origin` must have accepted the origin before."""
    headers = request.headers
    return (
        request.method == "OPTIONS"
        and "Origin" in headers
        and "Access-Control-Request-Method" in headers
    )


def _check_host(request: web.Request, names: frozenset[str] | None) -> None:
    host = _host_name(request.headers.get("Host", ""))
    if not host or (names is not None and host not in names):
        raise FrontError(ErrorCode.FORBIDDEN, "the Host header does not name this server")


def _canonical(name: str) -> str:
    """Return a host as `_host_name` does: an IPv6 address may be written in brackets, and long."""
    address = name.strip("[]")
    return _host_name(f"[{address}]" if ":" in address else address) or name.lower()


def _host_name(header: str) -> str | None:
    if not _HOST.fullmatch(header):
        return None
    try:
        return URL(f"http://{header}").host
    except ValueError:
        return None


def _check_origin(request: web.Request, allowed: Sequence[str]) -> None:
    """Refuse pages of other sites. Programs send no Origin header and are accepted."""
    host = request.headers.get("Host", "")
    own = (f"http://{host}", f"https://{host}")
    if any(origin not in (*own, *allowed) for origin in request.headers.getall("Origin", [])):
        raise FrontError(ErrorCode.FORBIDDEN, "pages of other sites may not use this server")
