"""Routes of the files of finished jobs: the video, and the stills from it."""

import re
import stat
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
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
_RANGE = re.compile("bytes=[^,]*", re.IGNORECASE)
"""What is understood of `Range`: one stretch of bytes."""


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
        HTTPRequestRangeNotSatisfiable: If it has no such range.
    """
    front = request.app[FRONT]
    if owner(request) is not None:
        await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
    path = Path(front.config.videos_dir) / f"{job_id}{ending}"
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):  # a link could lead anywhere
        raise FrontError(ErrorCode.NOT_FOUND, "there is no such video")
    if _asks_for_range(request) and request.if_range is None:  # else the date decides, in aiohttp
        _check_range(request, found.st_size)
    headers = {"Content-Security-Policy": _POLICY, "Content-Type": CONTENT_TYPES[ending]}
    return _Sent(path, headers=headers)


class _Sent(web.FileResponse):
    """A file, whole where the `Range` is none that is understood, as RFC 9110 has it."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if "Range" in request.headers and not _asks_for_range(request):
            others = {k: v for k, v in request.headers.items() if k.lower() != "range"}
            request = request.clone(headers=others)
        return await super().prepare(request)


def _asks_for_range(request: web.BaseRequest) -> bool:
    return _RANGE.fullmatch(request.headers.get("Range", "")) is not None


def _check_range(request: web.Request, num_bytes: int) -> None:
    """Refuse a range that a file has not; aiohttp would do so with an empty body."""
    try:
        is_there = (request.http_range.start or 0) < num_bytes
    except ValueError:
        is_there = False
    if not is_there:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{num_bytes}"})
