"""`create_app()`: the routes, and the middleware and headers that apply to all of them."""

from collections.abc import AsyncIterator

from aiohttp import web

from http_front import page
from http_front.access.key_guard import make_key_guard
from http_front.access.origin_check import add_cors_headers, make_origin_check
from http_front.config import FrontConfig
from http_front.docs import doc_routes
from http_front.files import file_routes, input_routes
from http_front.images.fetch import ImageSource, make_source
from http_front.images.guarded_http import GuardedHttp
from http_front.live.progress_socket import close_all, progress
from http_front.metrics.metrics import METRICS, Metrics, count_requests, metrics
from http_front.openai import openai_routes
from http_front.openai.openai_errors import translate_errors
from http_front.operators import operator_routes
from http_front.refusals import answer_errors
from http_front.state import FRONT, open_front
from http_front.video import listing, routes
from http_front.video.bounded_body import MAX_TEXT_BYTES
from http_front.webhooks.callback_sender import make_callback_http

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def create_app(
    config: FrontConfig,
    source: ImageSource | None = None,
    callback_http: GuardedHttp | None = None,
) -> web.Application:
    """Return the front's aiohttp application.

    Args:
        config: From the launcher.
        source: Fetches images. None makes the source that the configuration describes.
        callback_http: Sends callbacks. None likewise.
    """
    guards = [] if config.api_keys is None else [make_key_guard(config.api_keys)]
    app = web.Application(
        middlewares=[
            count_requests,
            translate_errors,
            answer_errors,
            make_origin_check(config),
            *guards,
        ],
        client_max_size=MAX_TEXT_BYTES,
    )
    app[METRICS] = Metrics()
    _add_routes(app, with_keys=config.api_keys is not None)

    async def front(app: web.Application) -> AsyncIterator[None]:
        images = source or make_source(config.allow_private_images, config.image_hosts)
        http = callback_http or make_callback_http(config.allow_private_callbacks)
        async with open_front(config, images, http, app[METRICS].record) as app[FRONT]:
            yield

    app.cleanup_ctx.append(front)
    app.on_response_prepare.append(_add_headers)

    async def add_cors(request: web.Request, response: web.StreamResponse) -> None:
        add_cors_headers(request, response, config.cors_origins)

    app.on_response_prepare.append(add_cors)
    app.on_shutdown.append(close_all)
    return app


def _add_routes(app: web.Application, with_keys: bool) -> None:
    app.add_routes(
        [
            web.post("/video/submit", routes.submit),
            web.post("/video/status", routes.status),
            web.post("/video/cancel", routes.cancel),
            web.get("/video/progress", progress, allow_head=False),
            web.post("/video/delete", listing.delete),
            web.post("/video/keep", listing.keep),
            web.get("/video/list", listing.list_jobs, allow_head=False),
            web.get("/video/webhook_secret", routes.webhook_secret, allow_head=False),
            web.get("/health", operator_routes.health),
            web.get("/live", operator_routes.live),
            web.get("/metrics", metrics, allow_head=False),
            web.post("/admin/cleanup", operator_routes.cleanup),
            web.post("/admin/drain", operator_routes.drain),
        ]
    )
    file_routes.add_routes(app)
    input_routes.add_routes(app)
    openai_routes.add_routes(app)
    doc_routes.add_routes(app, with_keys=with_keys)
    page.add_routes(app)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
