"""Routes for the files of finished jobs: the video, its poster and its sprite sheet."""

import logging
import re
import stat
from http import HTTPStatus
from pathlib import Path

from aiohttp import ETag, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler

from broker.store.bucket import CHUNK_BYTES, ObjectStore, StoredObject
from broker.store.folder import FolderStore
from broker.store.store import POSTER, SPRITES, VIDEO, VIDEOS, StoreError
from broker.wire.errors import ErrorCode
from broker.wire.job import JOB_ID_PATTERN
from broker.wire.job_view import JobView
from broker.wire.requests import GetJob
from http_front.access.key_guard import owner
from http_front.errors import FrontError
from http_front.files.stored_files import StoredFiles
from http_front.job_ids import use_job_id
from http_front.state import FRONT

logger = logging.getLogger(__name__)

CONTENT_TYPES = {VIDEO: "video/mp4", POSTER: "image/webp", SPRITES: "image/webp"}
# A browser opens a video in a page of its own; the policy must let that page load the video.
_POLICY = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
# Only a single range of bytes is supported.
_RANGE = re.compile("bytes=[^,]*", re.IGNORECASE)
_EMPTY_SUFFIX = re.compile("bytes=-0+", re.IGNORECASE)
_ANY_ETAG = "*"
_EXPLAIN_LIMIT_S = 1.0


def add_routes(app: web.Application) -> None:
    for ending in CONTENT_TYPES:
        app.router.add_get(f"/videos/{{requestId:{JOB_ID_PATTERN}}}{ending}", _sender(ending))


def _sender(ending: str) -> Handler:
    async def send(request: web.Request) -> web.StreamResponse:
        job_id = use_job_id(request.match_info["requestId"])
        try:
            return await send_file(request, job_id, ending)
        except FrontError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            raise await _why_missing(request, job_id, error) from error

    return send


async def _why_missing(request: web.Request, job_id: str, error: FrontError) -> FrontError:
    """Return what the job is that has no video, as far as the broker knows it."""
    try:
        ask = GetJob(job_id=job_id, owner=owner(request))
        found = await request.app[FRONT].broker.ask(ask, _EXPLAIN_LIMIT_S)
    except FrontError as refusal:
        return refusal if refusal.code is ErrorCode.JOB_EXPIRED else error
    return error if found.job.video is not None else no_video(found.job)


def no_video(job: JobView) -> FrontError:
    return FrontError(ErrorCode.NOT_FOUND, f"there is no video: the job is {job.state.value}")


async def send_file(request: web.Request, job_id: str, ending: str) -> web.StreamResponse:
    """Respond with a file of a finished job, a range of it, or a redirect to it.

    Raises:
        FrontError: If there is no such file, the job has another owner, or the store cannot be
            reached.
        HTTPRequestRangeNotSatisfiable: If the file has no such range.
    """
    front = request.app[FRONT]
    if owner(request) is not None:
        await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
    name = f"{VIDEOS}/{job_id}{ending}"
    named = await front.names.disposition(job_id) if ending == VIDEO else None
    return await send_stored(request, name, CONTENT_TYPES[ending], named)


async def send_stored(
    request: web.Request, name: str, content_type: str, disposition: str | None = None
) -> web.StreamResponse:
    """Respond with a file of the store, as `send_file` does, once its owner is checked."""
    headers = {"Content-Security-Policy": _POLICY, "Content-Type": content_type}
    if disposition is not None:
        headers["Content-Disposition"] = disposition
    store = request.app[FRONT].files.store
    if isinstance(store, FolderStore):
        return _send_from_folder(request, store.local(name), headers)
    assert isinstance(store, ObjectStore), store
    return await _send_from_bucket(request, store, name, headers)


def _send_from_folder(
    request: web.Request, path: Path, headers: dict[str, str]
) -> web.FileResponse:
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise _no_video() from None
    if not stat.S_ISREG(status.st_mode):  # a link could lead out of the folder
        raise _no_video()
    _check_range(request, status.st_size)
    return _RangeFileResponse(path, headers=headers)


async def _send_from_bucket(
    request: web.Request, store: ObjectStore, name: str, headers: dict[str, str]
) -> web.StreamResponse:
    front = request.app[FRONT]
    stored = await front.files.call(lambda: store.find(name))
    if stored is None:
        raise _no_video()
    # A signed link is valid for one method only, so HEAD is answered here.
    if front.config.store_downloads == "redirect" and request.method == "GET":
        link = await front.files.call(lambda: store.sign(name))
        return web.Response(status=307, headers={"Location": link, "Cache-Control": "no-store"})
    _check_range(request, stored.num_bytes)
    download = BucketDownload(front.files, store, name, stored)
    return await download.send(request, headers)


def _no_video() -> FrontError:
    return FrontError(ErrorCode.NOT_FOUND, "there is no such video")


class _RangeFileResponse(web.FileResponse):
    """A file response that ignores a `Range` header where RFC 9110 requires that.

    It does if the range is none that this server supports, or of another version of the file.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if "Range" in request.headers and not (
            _asks_for_range(request) and _is_of_this_version(request, self._etag_of_file())
        ):
            headers = {k: v for k, v in request.headers.items() if k.lower() != "range"}
            request = request.clone(headers=headers)
        return await super().prepare(request)

    def _etag_of_file(self) -> str:
        status = self._path.stat()
        return f"{status.st_mtime_ns:x}-{status.st_size:x}"  # as aiohttp makes it


class BucketDownload:
    """Sends one object of an object store, as aiohttp sends a file of a folder.

    Args:
        files: Calls the store in threads.
        store: The same store.
        name: Name of the object.
        stored: What the store says about the object. If the object changes during the download,
            the download is aborted.
    """

    def __init__(
        self, files: StoredFiles, store: ObjectStore, name: str, stored: StoredObject
    ) -> None:
        self._files = files
        self._store = store
        self._name = name
        self._stored = stored

    async def send(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        """Respond to a request, with respect to its conditions and its range.

        Raises:
            FrontError: If the store cannot be reached. Nothing has been sent then.
        """
        status = self._condition(request)
        if status is not None:
            response = web.StreamResponse(status=status, headers=headers)
            if status == HTTPStatus.NOT_MODIFIED:
                self._add_validators(response)
            else:
                response.content_length = 0
            await response.prepare(request)
            return response
        response = web.StreamResponse(headers=headers)
        start, stop = None, self._stored.num_bytes
        if _asks_for_range(request) and _is_of_this_version(request, self._stored.etag):
            start, stop = self._range(request)
        if start is not None:
            response.set_status(HTTPStatus.PARTIAL_CONTENT)
            content_range = f"bytes {start}-{stop - 1}/{self._stored.num_bytes}"
            response.headers["Content-Range"] = content_range
        self._add_validators(response)
        response.headers["Accept-Ranges"] = "bytes"
        response.content_length = stop - (start or 0)
        await self._send_body(request, response, start or 0, stop)
        return response

    async def _send_body(
        self, request: web.Request, response: web.StreamResponse, start: int, stop: int
    ) -> None:
        if request.method == "HEAD":
            await response.prepare(request)
            return
        # Read the first chunk before sending headers, so that an error still has its status code.
        chunk = await self._read(start, stop)
        await response.prepare(request)
        try:
            while chunk:
                await response.write(chunk)
                start += len(chunk)
                chunk = await self._read(start, stop)
        except (FrontError, StoreError):
            logger.warning("download of %s aborted at byte %d of %d", self._name, start, stop)
            if request.transport is not None:
                request.transport.abort()

    async def _read(self, start: int, stop: int) -> bytes:
        stop = min(start + CHUNK_BYTES, stop)
        if start >= stop:
            return b""
        return await self._files.call(
            lambda: self._store.read(self._name, start, stop, self._stored.etag)
        )

    def _add_validators(self, response: web.StreamResponse) -> None:
        response.etag = self._stored.etag
        response.last_modified = self._stored.modified_s

    def _condition(self, request: web.Request) -> int | None:
        """Return 304 or 412 if the request's conditions demand it, else None."""
        modified_s = self._stored.modified_s
        if request.if_match is not None:
            if not self._matches(request.if_match, weak=False):
                return HTTPStatus.PRECONDITION_FAILED
        elif (
            unmodified := request.if_unmodified_since
        ) is not None and modified_s > unmodified.timestamp():
            return HTTPStatus.PRECONDITION_FAILED
        if request.if_none_match is not None:
            if self._matches(request.if_none_match, weak=True):
                return HTTPStatus.NOT_MODIFIED
        elif (
            modified := request.if_modified_since
        ) is not None and modified_s <= modified.timestamp():
            return HTTPStatus.NOT_MODIFIED
        return None

    def _matches(self, etags: tuple[ETag, ...], *, weak: bool) -> bool:
        return any(
            etag.value in (_ANY_ETAG, self._stored.etag)
            for etag in etags
            if weak or not etag.is_weak
        )

    def _range(self, request: web.Request) -> tuple[int | None, int]:
        """Return start and stop of the requested bytes; a start of None means the whole file.

        Raises:
            HTTPRequestRangeNotSatisfiable: If the object has no such bytes.
        """
        num_bytes = self._stored.num_bytes
        if_range = request.if_range
        if if_range is not None and self._stored.modified_s > if_range.timestamp():
            return None, num_bytes
        try:
            wanted = request.http_range
        except ValueError:
            raise _no_such_range(num_bytes) from None
        if wanted.start is None:
            return None, num_bytes
        start, stop, _ = wanted.indices(num_bytes)
        if start >= num_bytes:
            raise _no_such_range(num_bytes)
        return start, stop


def _asks_for_range(request: web.BaseRequest) -> bool:
    return _RANGE.fullmatch(request.headers.get("Range", "")) is not None


def _is_of_this_version(request: web.BaseRequest, etag: str) -> bool:
    """Whether `If-Range` names this version by its tag. Dates are compared elsewhere."""
    named = request.headers.get("If-Range", "")
    return named == f'"{etag}"' if named.startswith(('"', "W/")) else True


def _check_range(request: web.Request, num_bytes: int) -> None:
    """Refuse a range beyond the end of the file; aiohttp would respond with an empty body."""
    if not _asks_for_range(request) or "If-Range" in request.headers:
        return  # decided later, by the date or the tag of the file
    try:
        is_empty = _EMPTY_SUFFIX.fullmatch(request.headers["Range"]) is not None
        is_satisfiable = not is_empty and (request.http_range.start or 0) < num_bytes
    except ValueError:
        is_satisfiable = False
    if not is_satisfiable:
        raise _no_such_range(num_bytes)


def _no_such_range(num_bytes: int) -> web.HTTPRequestRangeNotSatisfiable:
    return web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{num_bytes}"})
