"""The web page at `/`, served from this package. It loads nothing from other servers."""

from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent / "static" / "page"
_FILES = {path.name: path for path in _FOLDER.iterdir() if path.name != "index.html"}
# The page makes `blob:` URLs itself: for pictures before upload, for live previews, and for videos
# fetched with the API key, because a <video> element cannot send a key.
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The browser revalidates every file, so it never mixes files of two releases.
_HEADERS = {"Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}


def add_routes(app: web.Application) -> None:
    app.add_routes(
        [web.get("/", _page), web.get("/static/page/{name}", _file), web.get("/favicon.ico", _icon)]
    )


async def _page(_request: web.Request) -> web.FileResponse:
    return web.FileResponse(_FOLDER / "index.html", headers=_HEADERS)


async def _icon(_request: web.Request) -> web.FileResponse:
    """Serve the icon where browsers look for it on pages that name none, such as a video."""
    return web.FileResponse(_FOLDER / "icon.svg", headers=_HEADERS)


async def _file(request: web.Request) -> web.FileResponse:
    path = _FILES.get(request.match_info["name"])
    if path is None:
        raise web.HTTPNotFound
    return web.FileResponse(path, headers=_HEADERS)
