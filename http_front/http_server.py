"""aiohttp's server with our limits, access log and error bodies, even for malformed HTTP."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.refusals import refusal

_SHOWN_PATH_CHARS = 200

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def create_runner(app: web.Application) -> web.AppRunner:
    """Return a runner with a limit on everything that a client can prolong or enlarge."""
    return _Runner(
        app,
        access_log_class=PathLogger,
        shutdown_timeout=5.0,
        keepalive_timeout=15.0,  # also limits how long the head of a request may take
        lingering_time=5.0,
        max_line_size=8190,
        max_field_size=8190,
        max_headers=64,
        auto_decompress=False,
    )


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


class _Handler(web.RequestHandler):
    """Handles one connection.

    For malformed HTTP, aiohttp sends the parser's error text and logs a traceback. Both repeat the
    client's bytes, which may include an API key, so this class sends our own message instead.
    """

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
        error = FrontError(ErrorCode.INVALID_BODY, "the request is not valid HTTP")
        response = refusal(error, status=status)
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Handler(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    # aiohttp has no public way to set a request handler. The tests of bad HTTP would fail if a new
    # version of aiohttp ignored this one.
    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handle = _refusing_expectations(made.request_handler)
        return _Server(handle, request_factory=made.request_factory, **made._kwargs)


def _refusing_expectations(handle: _Handle) -> _Handle:
    """Send our error body for a bad `Expect` header; aiohttp checks it before any middleware."""

    async def handle_or_refuse(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handle(request)
        except web.HTTPExpectationFailed as error:
            refused = FrontError(ErrorCode.INVALID_BODY, "the Expect header must be 100-continue")
            return refusal(refused, status=error.status)

    return handle_or_refuse
