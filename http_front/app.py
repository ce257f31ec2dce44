"""`create_app()`: routes, and what holds for all of them."""

from collections.abc import AsyncIterator

from aiohttp import web

from http_front import page
from http_front.access.key_guard import make_key_guard
from http_front.access.origin_check import allow_origin, make_gate
from http_front.config import FrontConfig
from http_front.docs import doc_routes as docs
from http_front.files import file_routes as files
from http_front.images.fetch import ImageSource, make_source
from http_front.live.progress_socket import close_all, progress
from http_front.metrics.metrics import Metrics
from http_front.metrics.metrics_route import METRICS, count_requests, metrics
from http_front.openai import openai_routes as openai_api
from http_front.openai.openai_errors import speak_openai
from http_front.refusals import answer_errors
from http_front.state import FRONT, open_front
from http_front.video import listing
from http_front.video import routes as handlers
from http_front.video.submission import MAX_JSON_BYTES

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
    guards = [] if config.api_keys is None else [make_key_guard(config.api_keys)]
    app = web.Application(
        middlewares=[count_requests, speak_openai, answer_errors, make_gate(config), *guards],
        client_max_size=MAX_JSON_BYTES,
    )
    app[METRICS] = Metrics()
    app.add_routes(
        [
            web.post("/video/submit", handlers.submit),
            web.post("/video/status", handlers.status),
            web.post("/video/cancel", handlers.cancel),
            web.get("/video/progress", progress, allow_head=False),
            web.post("/video/delete", listing.delete),
            web.get("/video/list", listing.list_jobs, allow_head=False),
            web.get("/video/webhook_secret", handlers.webhook_secret, allow_head=False),
            web.get("/health", handlers.health),
            web.get("/live", handlers.live),
            web.get("/metrics", metrics, allow_head=False),
            web.post("/admin/cleanup", handlers.cleanup),
            web.post("/admin/drain", handlers.drain),
        ]
    )
    files.add_routes(app)
    openai_api.add_routes(app)
    docs.add_routes(app, with_keys=config.api_keys is not None)
    page.add_routes(app)

    async def front(app: web.Application) -> AsyncIterator[None]:
        async with open_front(config, source or _source(config), app[METRICS].hear) as app[FRONT]:
            yield

    app.cleanup_ctx.append(front)
    app.on_response_prepare.append(_add_headers)

    async def share(request: web.Request, response: web.StreamResponse) -> None:
        allow_origin(request, response, config.cors_origins)

    app.on_response_prepare.append(share)
    app.on_shutdown.append(close_all)
    return app


def _source(config: FrontConfig) -> ImageSource:
    return make_source(config.allow_private_images, config.image_hosts)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
