"""The middleware that refuses requests a browser sends on behalf of another site."""

import re
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from broker.process.log import one_line
from broker.wire.errors import ErrorCode
from broker.wire.sockets import is_loopback
from http_front.config import FrontConfig
from http_front.errors import FrontError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SHOWN_CHARS = 100
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
    # A proxy may rewrite the Host header, but passes the Origin of our own page on as it is.
    proxied = frozenset(_canonical(name) for name in config.allowed_hosts)
    names = None
    if config.allowed_hosts or is_loopback(config.host):
        own = (config.host, *config.allowed_hosts)
        names = _LOOPBACK_NAMES | {_canonical(name) for name in own}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, names)
        _check_origin(request, config.cors_origins, proxied)
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
        found = one_line(request.headers.get("Host", "")[:_SHOWN_CHARS])
        message = (
            f'the Host header does not name this server: it is "{found}"; fix: start the server '
            "with --allowed-hosts and its name"
        )
        raise FrontError(ErrorCode.FORBIDDEN, message)


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


def _check_origin(request: web.Request, allowed: Sequence[str], proxied: frozenset[str]) -> None:
    """Refuse pages of other sites. Programs send no Origin header and are accepted."""
    host = request.headers.get("Host", "")
    own = (f"http://{host}", f"https://{host}", *allowed)
    for origin in request.headers.getall("Origin", []):
        if origin in own or _host_of_origin(origin) in proxied:
            continue
        found, shown_host = (one_line(text[:_SHOWN_CHARS]) for text in (origin, host))
        message = (
            f'pages of other sites may not use this server: the Origin is "{found}", the Host '
            f'"{shown_host}"; fix: start the server with --allowed-hosts if a proxy in front of it '
            "has that name, with --cors-origins if the page is another site's"
        )
        raise FrontError(ErrorCode.FORBIDDEN, message)


def _host_of_origin(origin: str) -> str | None:
    scheme, separator, host = origin.partition("://")
    return _host_name(host) if separator and scheme in ("http", "https") else None
