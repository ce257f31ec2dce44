"""Routes of the files of finished jobs: the video, and the stills from it."""

import stat
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from broker.protocol import ErrorCode, GetJob
from http_front.errors import FrontError
from http_front.handlers import subject
from http_front.key_guard import owner
from http_front.state import FRONT

VIDEO = ".mp4"
POSTER = ".webp"
SPRITES = ".sprites.webp"
CONTENT_TYPES = {VIDEO: "video/mp4", POSTER: "image/webp", SPRITES: "image/webp"}
_JOB_ID = "[0-9a-f]{32}"
# A browser shows a video in a page of its own, which must be allowed to load it.
_POLICY = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def add_routes(app: web.Application) -> None:
    """Add a route for each kind of file."""
    for ending in CONTENT_TYPES:
        app.router.add_get(f"/videos/{{requestId:{_JOB_ID}}}{ending}", _sender(ending))


def _sender(ending: str) -> Handler:
    async def send(request: web.Request) -> web.StreamResponse:
        return await send_file(request, subject(request.match_info["requestId"]), ending)

    return send


async def send_file(request: web.Request, job_id: str, ending: str) -> web.FileResponse:
    """Return a file of a finished job, or the range of it that is asked for.

    Raises:
        FrontError: If there is none, or it is another owner's.
    """
    front = request.app[FRONT]
    if owner(request) is not None:
        await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
    path = Path(front.config.videos_dir) / f"{job_id}{ending}"
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)  # a link could lead anywhere
    except FileNotFoundError:
        is_file = False
    if not is_file:
        raise FrontError(ErrorCode.NOT_FOUND, "there is no such video")
    headers = {"Content-Security-Policy": _POLICY, "Content-Type": CONTENT_TYPES[ending]}
    return web.FileResponse(path, headers=headers)
