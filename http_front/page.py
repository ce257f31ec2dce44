"""The web page at `/`: files of this package, which ask no other server for anything."""

from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent / "static" / "page"
_FILES = {path.name: path for path in _FOLDER.iterdir() if path.name != "index.html"}
# `blob:` is what the page itself makes: pictures to show before they are sent, live previews, and
# videos that it has fetched with the API key, which a <video> cannot show.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Asked for each time, answered with 304: a new release is never mixed with an old one.
_HEADERS = {"Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}


def add_routes(app: web.Application) -> None:
    """Add the page's routes."""
    app.add_routes([web.get("/", _page), web.get("/static/page/{name}", _file)])


async def _page(_request: web.Request) -> web.FileResponse:
    return web.FileResponse(_FOLDER / "index.html", headers=_HEADERS)


async def _file(request: web.Request) -> web.FileResponse:
    path = _FILES.get(request.match_info["name"])
    if path is None:
        raise web.HTTPNotFound
    return web.FileResponse(path, headers=_HEADERS)
