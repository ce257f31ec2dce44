"""Routes of the OpenAPI document and of the Swagger UI page, which needs no internet access."""

from pathlib import Path

import msgspec
from aiohttp import web

from http_front.docs.openapi import make_document

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
    document = msgspec.json.format(msgspec.json.encode(make_document(with_keys)), indent=2)

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.add_routes(
        [
            web.get("/docs", _page),
            web.get("/openapi.json", openapi),
            web.get(f"/static/{{name:{'|'.join(map(_escaped, _FILES))}}}", _file),
        ]
    )


async def _page(_request: web.Request) -> web.FileResponse:
    return web.FileResponse(
        _STATIC / "docs.html", headers={"Content-Security-Policy": _PAGE_POLICY}
    )


async def _file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(_FILES[request.match_info["name"]])


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")
