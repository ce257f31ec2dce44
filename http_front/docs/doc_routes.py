"""Routes of the OpenAPI document and of the Swagger UI page, which needs no internet access."""

from functools import lru_cache
from pathlib import Path

import msgspec
from aiohttp import web

from broker.wire.model_profile import ModelProfile
from http_front.docs.openapi import make_document
from http_front.errors import FrontError
from http_front.models.known_models import KnownModels
from http_front.models.profile_fields import TextLimits
from http_front.state import FRONT

BROKER_LIMIT_S = 1.0
"""How long the document waits for the broker to name the models."""
_STATIC = Path(__file__).parents[1] / "static"
_FILES = {
    "docs.js": _STATIC / "docs.js",
    "swagger-ui-bundle.js": _STATIC / "swagger-ui" / "swagger-ui-bundle.js",
    "swagger-ui.css": _STATIC / "swagger-ui" / "swagger-ui.css",
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_routes(app: web.Application, with_keys: bool) -> None:
    async def openapi(request: web.Request) -> web.Response:
        profiles = await _served(request.app[FRONT].models)
        names = tuple(profile.name for profile in profiles)
        default = profiles[0] if profiles else ModelProfile()
        limits = request.app[FRONT].config.text_limits
        body = _document(with_keys, default, names, limits)
        return web.Response(body=body, content_type="application/json")

    app.add_routes(
        [
            web.get("/docs", _page),
            web.get("/openapi.json", openapi),
            web.get(f"/static/{{name:{'|'.join(map(_escaped, _FILES))}}}", _file),
        ]
    )


async def _served(models: KnownModels) -> list[ModelProfile]:
    """Return the profiles of the models, the default first; none while the broker is silent."""
    try:
        found = await models.found(limit_s=BROKER_LIMIT_S)
    except FrontError:
        return []
    profiles = [view.profile for view in found.models]
    return sorted(profiles, key=lambda profile: profile.name != found.default)


@lru_cache(maxsize=4)
def _document(
    with_keys: bool, profile: ModelProfile, names: tuple[str, ...], limits: TextLimits
) -> bytes:
    document = make_document(with_keys, profile, names, limits)
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


async def _page(_request: web.Request) -> web.FileResponse:
    return web.FileResponse(
        _STATIC / "docs.html", headers={"Content-Security-Policy": _PAGE_POLICY}
    )


async def _file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(_FILES[request.match_info["name"]])


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")
