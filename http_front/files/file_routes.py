"""Routes of the files of finished jobs: the video, and the stills from it."""

import re
import stat
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler

from broker.store.bucket import ObjectStore
from broker.store.folder import FolderStore
from broker.store.store import VIDEOS
from broker.wire.protocol import ErrorCode, GetJob
from http_front.access.key_guard import owner
from http_front.errors import FrontError
from http_front.files.bucket_download import BucketDownload, no_such_range
from http_front.state import FRONT
from http_front.video.routes import subject

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


async def send_file(request: web.Request, job_id: str, ending: str) -> web.StreamResponse:
    """Return a file of a finished job, or the range of it that is asked for, or where it is.

    Raises:
        FrontError: If there is none, or it is another owner's; or the store cannot be reached.
        HTTPRequestRangeNotSatisfiable: If it has no such range.
    """
    front = request.app[FRONT]
    if owner(request) is not None:
        await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
    name = f"{VIDEOS}/{job_id}{ending}"
    headers = {"Content-Security-Policy": _POLICY, "Content-Type": CONTENT_TYPES[ending]}
    store = front.files.store
    if isinstance(store, FolderStore):
        return _send_from_folder(request, store.local(name), headers)
    assert isinstance(store, ObjectStore), store
    return await _send_object(request, store, name, headers)


def _send_from_folder(
    request: web.Request, path: Path, headers: dict[str, str]
) -> web.FileResponse:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise _no_video() from None
    if not stat.S_ISREG(found.st_mode):  # a link could lead anywhere
        raise _no_video()
    _check_range(request, found.st_size)
    return _Sent(path, headers=headers)


async def _send_object(
    request: web.Request, store: ObjectStore, name: str, headers: dict[str, str]
) -> web.StreamResponse:
    front = request.app[FRONT]
    found = await front.files.call(lambda: store.find(name))
    if found is None:
        raise _no_video()
    # A signed link is good for one method only; who asks for the head gets it from here.
    if front.config.store_downloads == "redirect" and request.method == "GET":
        link = await front.files.call(lambda: store.sign(name))
        return web.Response(status=307, headers={"Location": link, "Cache-Control": "no-store"})
    _check_range(request, found.num_bytes)
    relay = BucketDownload(front.files, store, name, found)
    return await relay.send(request, headers, ranged=_asks_for_range(request))


def _no_video() -> FrontError:
    return FrontError(ErrorCode.NOT_FOUND, "there is no such video")


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
    if not _asks_for_range(request) or request.if_range is not None:
        return  # with a condition, the date decides later
    try:
        is_there = (request.http_range.start or 0) < num_bytes
    except ValueError:
        is_there = False
    if not is_there:
        raise no_such_range(num_bytes)
