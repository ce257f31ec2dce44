"""Limits of request bodies: in time, and for forms in bytes and in lines however they are sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import StreamReader

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.images.spool import MAX_IMAGE_BYTES, image_too_large

MAX_TEXT_BYTES = 1 << 16
"""Of a JSON body, and of a text part of a form."""
MAX_FORM_BYTES = 2 * MAX_IMAGE_BYTES + (1 << 20)
"""Two images, the video's first and last frame, and the other fields."""
MAX_JSON_BYTES = MAX_FORM_BYTES // 3 * 4
"""The same in base64."""
MAX_LINES = 1000
"""Lines of the preamble and of the heads of all parts. A content is not read by lines."""


class BoundedBody:
    """Has the methods of a `StreamReader` that aiohttp's reader of forms calls.

    That reader never yields to the event loop while data has arrived, so this one does.

    Args:
        content: The body as it arrives.
    """

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._num_bytes = 0
        self._num_lines = 0

    async def read(self, num_bytes: int = -1) -> bytes:
        await asyncio.sleep(0)
        return self._counted(await self._content.read(num_bytes))

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        self._num_lines += 1
        if self._num_lines > MAX_LINES:
            raise FrontError(
                ErrorCode.INVALID_BODY,
                f"the form has more than {MAX_LINES} lines outside the contents of its parts",
            )
        if self._num_lines % 16 == 0:
            await asyncio.sleep(0)
        return self._counted(await self._content.readline(max_line_length=max_line_length))

    def at_eof(self) -> bool:
        return self._content.at_eof()

    def unread_data(self, data: bytes) -> None:
        self._num_bytes -= len(data)
        self._content.unread_data(data)

    def _counted(self, data: bytes) -> bytes:
        self._num_bytes += len(data)
        if self._num_bytes > MAX_FORM_BYTES:
            raise image_too_large("image")
        return data


@asynccontextmanager
async def body_limit(limit_s: float) -> AsyncIterator[None]:
    """Limit the time for reading a body; aiohttp has no such limit."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise FrontError(
            ErrorCode.REQUEST_TIMEOUT, f"the body did not arrive within {limit_s:g} s"
        ) from error
