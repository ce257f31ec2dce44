"""`create_app()`: routes, and what holds for all of them."""

import logging
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from http_front import docs, handlers
from http_front.config import FrontConfig
from http_front.gate import make_gate
from http_front.image_source import ImageSource, unguarded_source
from http_front.progress import close_all, progress
from http_front.refusals import answer_errors
from http_front.state import FRONT, open_front
from http_front.submission import MAX_JSON_BYTES

_SHOWN_PATH_CHARS = 200
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def create_app(config: FrontConfig, source: ImageSource | None = None) -> web.Application:
    """Return the application.

    Args:
        config: What the launcher told.
        source: Fetches images; None is the one that the configuration asks for.
    """
    app = web.Application(
        middlewares=[answer_errors, make_gate(config)], client_max_size=MAX_JSON_BYTES
    )
    app.add_routes(
        [
            web.post("/video/submit", handlers.submit),
            web.post("/video/status", handlers.status),
            web.post("/video/cancel", handlers.cancel),
            web.get("/video/progress", progress, allow_head=False),
            web.get(r"/videos/{name:[0-9a-f]{32}\.mp4}", handlers.video),
            web.get("/health", handlers.health),
            web.get("/live", handlers.live),
            web.post("/admin/cleanup", handlers.cleanup),
        ]
    )
    docs.add_routes(app)

    async def front(app: web.Application) -> AsyncIterator[None]:
        async with open_front(config, source or _source(config)) as app[FRONT]:
            yield

    app.cleanup_ctx.append(front)
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(close_all)
    return app


def create_runner(app: web.Application) -> web.AppRunner:
    """Return a runner with limits on everything that a client can draw out."""
    return web.AppRunner(
        app,
        access_log_class=PathLogger,
        shutdown_timeout=5.0,
        keepalive_timeout=15.0,  # also the time within which a request's head must arrive
        lingering_time=5.0,
        max_line_size=8190,
        max_field_size=8190,
        max_headers=64,
        auto_decompress=False,
    )


class PathLogger(AbstractAccessLogger):
    """Logs requests without query and headers, which may hold secrets."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line of a request."""
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
        """Whether lines are wanted."""
        return self.logger.isEnabledFor(logging.INFO)


def _source(config: FrontConfig) -> ImageSource:
    return unguarded_source() if config.allow_private_images else ImageSource()


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
