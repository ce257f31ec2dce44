"""The middleware that keeps out what a browser sends on behalf of another site."""

import ipaddress

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from broker.protocol import ErrorCode
from http_front.config import FrontConfig
from http_front.errors import FrontError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def make_gate(config: FrontConfig) -> Middleware:
    """Return the middleware for a configuration.

    A page of another site can point its own name at us (DNS rebinding), so a server on loopback
    answers to its own names only. One on a public address cannot know all its names: there the
    check is on only if `allowed_hosts` names them.
    """
    names = None
    if config.allowed_hosts or _is_loopback(config.host):
        names = _LOOPBACK_NAMES | {config.host} | set(config.allowed_hosts)

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, names)
        _check_origin(request)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise FrontError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding"
            )
        return await handler(request)

    return gate


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_host(request: web.Request, names: frozenset[str] | None) -> None:
    host = _host_name(request.headers.get("Host", ""))
    if not host or (names is not None and host not in names):
        raise FrontError(ErrorCode.FORBIDDEN, "the Host header names no host of this server")


def _host_name(header: str) -> str | None:
    try:
        return URL(f"http://{header}").host
    except ValueError:
        return None


def _check_origin(request: web.Request) -> None:
    """Refuse other sites' pages; programs send no Origin. Origins are compared whole."""
    origin = request.headers.get("Origin")
    host = request.headers.get("Host", "")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        raise FrontError(ErrorCode.FORBIDDEN, "pages of other sites may not use this server")
