"""aiohttp's server with our limits, access log and error bodies, even for malformed HTTP."""

import asyncio
import errno
import gc
import logging
import socket
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.log import access_logger

from http_front.access.connection_limits import ConnectionLimits
from http_front.config import AccessLog
from http_front.refusals import unrouted_refusal

LINE_BYTES = 8190
"""Length of a request's first line, and of each header."""
READ_BYTES = 1 << 14
"""Bytes of a connection that are parsed at a stretch: some 2,700 chunks of a body at most."""
SEND_LIMIT_S = 30.0
"""A client that takes nothing for so long is disconnected."""
_UNSENT_BYTES = 1 << 17
_BACKLOG = 1024
_SHOWN_PATH_CHARS = 200
_PROBES = frozenset({"/health", "/live"})

logger = logging.getLogger(__name__)

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def create_runner(
    app: web.Application, limits: ConnectionLimits | None = None, access_log: AccessLog = "errors"
) -> web.AppRunner:
    """Return a runner with a limit on everything that a client can prolong or enlarge."""
    # These warnings quote the client, at any length, and go to standard error past the log.
    for kind in (BadContentDispositionHeader, BadContentDispositionParam):
        warnings.simplefilter("ignore", kind)
    return _Runner(
        app,
        limits=limits or ConnectionLimits(),
        access_log=None if access_log == "off" else access_logger,
        access_log_class=PathLogger if access_log == "all" else ErrorLogger,
        shutdown_timeout=5.0,
        keepalive_timeout=15.0,  # also limits how long the head of a request may take
        lingering_time=5.0,
        max_line_size=LINE_BYTES,
        max_field_size=LINE_BYTES,
        max_headers=64,
        auto_decompress=False,
        read_bufsize=READ_BYTES,
    )


async def start_serving(runner: web.AppRunner, listener: socket.socket) -> None:
    """Serve on a bound socket."""
    keep_collections_short()
    asyncio.get_running_loop().set_exception_handler(_log_loop_error)
    # asyncio accepts as many connections at a stretch as the backlog says. When that fails, for
    # want of descriptors, it logs as many errors and starts as many timers, which multiply.
    await web.SockSite(runner, listener, backlog=1).start()
    listener.listen(_BACKLOG)


def keep_collections_short() -> None:
    """Exempt what lives as long as the process from garbage collection, and collect often.

    A full collection would stop the front for tens of milliseconds. It would also wait until
    garbage makes up a quarter of all objects: the memory would grow by megabytes for minutes.

    Each connection ends as garbage, because asyncio and aiohttp leave reference cycles, and a
    WebSocket lives long enough to need a full collection. By default, one comes with each eleventh
    of the collections below it; here, with each second. It then takes a few milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # the quarter counts from this one, which finds next to nothing
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 0)


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if str(context.get("message")).startswith("socket.accept()"):
        logger.error("cannot accept connections: %s", context.get("exception"))
    else:
        loop.default_exception_handler(context)


class PathLogger(AbstractAccessLogger):
    """Logs requests without their query and headers, which may hold secrets."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self.logger.info(
            "%s %s %s %d %.0f ms",
            request.remote,
            request.method,
            request.path[:_SHOWN_PATH_CHARS],
            response.status,
            time * 1000,
        )

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)


class ErrorLogger(PathLogger):
    """Logs the requests that were refused or failed; open pages poll, which would fill the log.

    Nor those of probes: they repeat until the server is ready, and the log tells what it lacks.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if response.status >= 400 and request.path not in _PROBES:
            super().log(request, response, time)


class _Handler(web.RequestHandler):
    """Handles one connection.

    For malformed HTTP, aiohttp sends the parser's error text and logs a traceback. Both repeat the
    client's bytes, which may include an API key, so this class sends our own message instead.
    """

    def __init__(self, manager: "_Server", **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._limits = manager.limits
        self._counted_as: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio reads up to 256 KiB at a time, and aiohttp parses all of it without a pause.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        # None if the client has gone already.
        address = transport.get_extra_info("peername")
        self._counted_as = address and self._limits.open(address[0])
        if self._counted_as is None:
            transport.abort()
        else:
            _limit_sending(transport.get_extra_info("socket"))

    def connection_lost(self, exc: BaseException | None) -> None:
        key, self._counted_as = self._counted_as, None
        if key is not None:
            self._limits.close(key)
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        except ConnectionError:
            raise
        except OSError as error:
            if error.errno != errno.ETIMEDOUT:  # the client takes nothing; all else is ours
                logger.error("%s was not sent whole: %s", request.path[:_SHOWN_PATH_CHARS], error)
            raise ConnectionError("the response ended early") from error

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already started")
        message = "the request is not valid HTTP"
        if isinstance(exc, LineTooLong):
            message = f"the address or a header of the request is longer than {LINE_BYTES} bytes"
        response = unrouted_refusal(message, status)
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, *arguments: Any, limits: ConnectionLimits, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.limits = limits

    def __call__(self) -> web.RequestHandler:
        return _Handler(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    def __init__(self, *arguments: Any, limits: ConnectionLimits, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._limits = limits

    # aiohttp has no public way to set a request handler. The tests of bad HTTP would fail if a new
    # version of aiohttp ignored this one.
    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handle = _refusing_expectations(made.request_handler)
        factory = _without_last_slash(made.request_factory)
        return _Server(handle, limits=self._limits, request_factory=factory, **made._kwargs)


def _limit_sending(connection: socket.socket) -> None:
    """Have the kernel end a connection whose client takes nothing for a while.

    This holds for files too, which the kernel sends without this process.
    """
    if sys.platform == "linux":
        limit_ms = int(SEND_LIMIT_S * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _without_last_slash(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Read the path `/video/list/` as `/video/list`, which no redirect would do for a POST."""

    def make_request(message: RawRequestMessage, *arguments: Any) -> web.BaseRequest:
        path = message.url.raw_path
        if path.endswith("/") and path != "/":
            url = message.url.with_path(path.rstrip("/") or "/", encoded=True, keep_query=True)
            message = message._replace(path=url.raw_path_qs, url=url)
        return make(message, *arguments)

    return make_request


def _refusing_expectations(handle: _Handle) -> _Handle:
    """Send our error body for a bad `Expect` header; aiohttp checks it before any middleware."""

    async def handle_or_refuse(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handle(request)
        except web.HTTPExpectationFailed as error:
            return unrouted_refusal("the Expect header must be 100-continue", error.status)

    return handle_or_refuse
