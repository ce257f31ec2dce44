"""The route of the metrics, and the count of requests."""

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from broker.wire.protocol import GetHealth, HealthFound
from http_front.errors import FrontError
from http_front.metrics.metrics import Metrics
from http_front.state import FRONT
from http_front.video.routes import HEALTH_LIMIT_S

METRICS = web.AppKey("metrics", Metrics)


async def metrics(request: web.Request) -> web.Response:
    """Tell the metrics, also while the broker is away."""
    try:
        health = await request.app[FRONT].broker.ask(GetHealth(), HEALTH_LIMIT_S)
    except FrontError:
        health = None
    assert health is None or isinstance(health, HealthFound)
    text = request.app[METRICS].expose(health)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count each request by the route that answered it."""
    response = await handler(request)
    resource = request.match_info.route.resource
    route = "none" if resource is None else resource.canonical
    request.app[METRICS].http_requests.labels(route, str(response.status)).inc()
    return response
