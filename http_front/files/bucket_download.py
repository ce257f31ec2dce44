"""A file of an object store passed on to a client, as aiohttp sends one of a folder."""

import logging
from http import HTTPStatus

from aiohttp import ETag, web

from broker.store.bucket import CHUNK_BYTES, ObjectStore, StoredObject
from broker.store.store import StoreError
from http_front.errors import FrontError
from http_front.files.stored_files import StoredFiles

logger = logging.getLogger(__name__)

_ANY = "*"


class BucketDownload:
    """One object on its way to one client.

    Args:
        files: The front's line to the store.
        store: The same store.
        name: Of the object.
        found: What there is of it; should it change meanwhile, the transfer breaks off.
    """

    def __init__(
        self, files: StoredFiles, store: ObjectStore, name: str, found: StoredObject
    ) -> None:
        self._files = files
        self._store = store
        self._name = name
        self._found = found

    async def send(
        self, request: web.Request, headers: dict[str, str], *, ranged: bool
    ) -> web.StreamResponse:
        """Answer a request.

        Args:
            request: Its conditions and its range count.
            headers: Of the answer.
            ranged: Whether the request's range is to be looked at.

        Raises:
            FrontError: If the store cannot be reached; nothing has been sent then.
        """
        status = self._condition(request)
        if status is not None:
            answer = web.StreamResponse(status=status, headers=headers)
            if status == HTTPStatus.NOT_MODIFIED:
                self._describe(answer)
            else:
                answer.content_length = 0
            await answer.prepare(request)
            return answer
        answer = web.StreamResponse(headers=headers)
        start, stop = self._stretch(request) if ranged else (None, self._found.num_bytes)
        if start is not None:
            answer.set_status(HTTPStatus.PARTIAL_CONTENT)
            told = f"bytes {start}-{stop - 1}/{self._found.num_bytes}"
            answer.headers["Content-Range"] = told
        self._describe(answer)
        answer.headers["Accept-Ranges"] = "bytes"
        answer.content_length = stop - (start or 0)
        await self._send_body(request, answer, start or 0, stop)
        return answer

    async def _send_body(
        self, request: web.Request, answer: web.StreamResponse, start: int, stop: int
    ) -> None:
        if request.method == "HEAD":
            await answer.prepare(request)
            return
        # The first bytes are read before anything is sent: a client shall hear what is wrong.
        chunk = await self._read(start, stop)
        await answer.prepare(request)
        try:
            while chunk:
                await answer.write(chunk)
                start += len(chunk)
                chunk = await self._read(start, stop)
        except (FrontError, StoreError):
            logger.warning("%s broke off after %d bytes", self._name, start)
            if request.transport is not None:
                request.transport.abort()

    async def _read(self, start: int, stop: int) -> bytes:
        stop = min(start + CHUNK_BYTES, stop)
        if start >= stop:
            return b""
        return await self._files.call(
            lambda: self._store.read(self._name, start, stop, self._found.etag)
        )

    def _describe(self, answer: web.StreamResponse) -> None:
        answer.etag = self._found.etag
        answer.last_modified = self._found.modified_s

    def _condition(self, request: web.Request) -> int | None:
        """Return the status of an answer without a body, if the request's conditions want one."""
        modified_s = self._found.modified_s
        if request.if_match is not None:
            if not self._is_among(request.if_match, weak=False):
                return HTTPStatus.PRECONDITION_FAILED
        elif (
            unmodified := request.if_unmodified_since
        ) is not None and modified_s > unmodified.timestamp():
            return HTTPStatus.PRECONDITION_FAILED
        if request.if_none_match is not None:
            if self._is_among(request.if_none_match, weak=True):
                return HTTPStatus.NOT_MODIFIED
        elif (
            modified := request.if_modified_since
        ) is not None and modified_s <= modified.timestamp():
            return HTTPStatus.NOT_MODIFIED
        return None

    def _is_among(self, etags: tuple[ETag, ...], *, weak: bool) -> bool:
        return any(
            etag.value in (_ANY, self._found.etag) for etag in etags if weak or not etag.is_weak
        )

    def _stretch(self, request: web.Request) -> tuple[int | None, int]:
        """Return start and end of the bytes that are asked for; no start is all of them.

        Raises:
            HTTPRequestRangeNotSatisfiable: If the object has no such bytes.
        """
        num_bytes = self._found.num_bytes
        if_range = request.if_range
        if if_range is not None and self._found.modified_s > if_range.timestamp():
            return None, num_bytes
        try:
            wanted = request.http_range
        except ValueError:
            raise no_such_range(num_bytes) from None
        if wanted.start is None:
            return None, num_bytes
        start, stop, _ = wanted.indices(num_bytes)
        if start >= num_bytes:
            raise no_such_range(num_bytes)
        return start, stop


def no_such_range(num_bytes: int) -> web.HTTPRequestRangeNotSatisfiable:
    """Return the error that tells how long a file is."""
    return web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{num_bytes}"})
