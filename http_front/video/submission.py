"""Read a submit request: JSON with an image URL, or a form with an image file or URL."""

import asyncio
import codecs
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web

from broker.process.log import one_line
from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec
from http_front.errors import FrontError
from http_front.images.data_url import DataUrlDecoder
from http_front.images.spool import Spool, image_too_large
from http_front.video.bounded_body import MAX_FORM_BYTES, BoundedBody
from http_front.video.field_check import Body, check, decode_json
from http_front.video.schema import SubmitByFile, SubmitByUrl

MAX_JSON_BYTES = 1 << 16
MAX_PARTS = 64
MAX_PART_HEADERS = 16
BODY_LIMIT_S = 10.0
UPLOAD_LIMIT_S = 120.0
_CHUNK_BYTES = 1 << 16

_CHARSETS = frozenset(
    {
        *("utf-8", "utf-8-sig", "ascii", "utf-16", "utf-16-le", "utf-16-be"),
        *("gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"),
        *("iso8859-1", "cp1252"),
    }
)
"""Python's names of the charsets that a part may be in; some of its other codecs are slow."""


class Submission(NamedTuple):
    """A submit request as the client wrote it."""

    spec: JobSpec
    image_url: str | None
    """None if the image was uploaded."""
    callback_url: str | None = None
    priority: int = 0


async def read_json(request: web.Request, body_type: type[Body]) -> Body:
    """Read a JSON request and check it against a struct.

    Raises:
        FrontError: If the body is not JSON, too slow, too large, or does not fit the struct.
    """
    return check(await read_json_fields(request), body_type)


async def read_json_fields(request: web.Request) -> dict[str, object]:
    """Read the fields of a JSON request.

    Raises:
        FrontError: If the body is not a JSON object, too slow or too large.
    """
    if request.content_type != "application/json":
        raise _unsupported("application/json", request)
    _require_utf8(request)
    async with _body_limit(BODY_LIMIT_S):
        body = await request.read()
    return decode_json(body)


async def read_submission(request: web.Request, spool: Spool) -> Submission:
    """Read a submit request, and write an uploaded image to the spool.

    Raises:
        FrontError: If the body is not valid.
    """
    if request.content_type == "multipart/form-data":
        return await _read_form(request, spool)
    if request.content_type != "application/json":
        raise _unsupported("application/json or multipart/form-data", request)
    body = await read_json(request, SubmitByUrl)
    return Submission(body.spec, body.image_url, body.callback_url, body.priority)


async def _read_form(request: web.Request, spool: Spool) -> Submission:
    fields = await read_form(request, spool, "image")
    if spool.num_bytes:
        if "image_url" in fields:
            raise FrontError(
                ErrorCode.INVALID_FIELD, "give either image or image_url, not both", "image_url"
            )
        upload = check(fields, SubmitByFile, lax=True)
        return Submission(upload.spec, None, upload.callback_url, upload.priority)
    body = check(fields, SubmitByUrl, lax=True)
    return Submission(body.spec, body.image_url, body.callback_url, body.priority)


async def read_form(
    request: web.Request, spool: Spool, file_part: str, url_parts: frozenset[str] = frozenset()
) -> dict[str, object]:
    """Read a form, write its image to the spool, and return its text parts.

    Args:
        request: The request with the form.
        spool: Receives the image.
        file_part: Name of the part with the image file.
        url_parts: Names of parts that may hold the image as a data URL.

    Raises:
        FrontError: If the form is malformed, too slow or too large.
    """
    form = _Form(spool, file_part, url_parts)
    async with _body_limit(UPLOAD_LIMIT_S):
        await _read_parts(request, form)
    return form.fields


async def _read_parts(request: web.Request, form: "_Form") -> None:
    if (request.content_length or 0) > MAX_FORM_BYTES:
        raise image_too_large()
    body = cast("StreamReader", BoundedBody(request.content))
    try:
        reader = MultipartReader(request.headers, body, max_headers=MAX_PART_HEADERS)
        for _ in range(MAX_PARTS):
            part = await reader.next()
            if part is None:
                return
            await form.read_part(part)
    except (ValueError, LookupError, RuntimeError, AssertionError) as error:
        # aiohttp raises all of these for malformed forms.
        raise FrontError(ErrorCode.INVALID_BODY, "the body is not a valid form") from error
    raise FrontError(ErrorCode.INVALID_BODY, f"the form has more than {MAX_PARTS} parts")


class _Form:
    """Reads a form: the image goes to the spool, the other parts to `fields`."""

    def __init__(self, spool: Spool, file_part: str, url_parts: frozenset[str]) -> None:
        self.fields: dict[str, object] = {}
        self._spool = spool
        self._file_part = file_part
        self._url_parts = url_parts

    async def read_part(self, part: object) -> None:
        if not isinstance(part, BodyPartReader) or not part.name:
            raise ValueError("a part has no name or is a nested multipart")
        # Where the part may also be a URL, only a file has a file name.
        is_file = part.name == self._file_part and (not self._url_parts or bool(part.filename))
        if part.name in self.fields:
            raise FrontError(ErrorCode.INVALID_BODY, "the form has two parts with the same name")
        if is_file and self._spool.num_bytes:
            raise FrontError(ErrorCode.INVALID_BODY, "the form has two images")
        if is_file:
            await self._read_file(part)
        else:
            await self._read_text(part, part.name)

    async def _read_file(self, part: BodyPartReader) -> None:
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            self._spool.write(chunk)
        if not self._spool.num_bytes:
            raise FrontError(ErrorCode.IMAGE_INVALID, "the image is an empty file", self._file_part)

    async def _read_text(self, part: BodyPartReader, name: str) -> None:
        body = bytearray(await part.read_chunk(_CHUNK_BYTES))
        head_bytes = DataUrlDecoder.head_bytes(bytes(body)) if name in self._url_parts else 0
        if head_bytes and not self._spool.num_bytes:
            await self._read_data_url(part, name, bytes(body[head_bytes:]))
            return
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_JSON_BYTES:
                raise FrontError(
                    ErrorCode.BODY_TOO_LARGE, f"a text part has more than {MAX_JSON_BYTES} bytes"
                )
        self.fields[name] = _decode_text(bytes(body), part.get_charset("utf-8"), name)

    async def _read_data_url(self, part: BodyPartReader, name: str, start: bytes) -> None:
        decoder = DataUrlDecoder(name, self._spool)
        chunk = start
        while chunk:
            decoder.write(chunk)
            chunk = await part.read_chunk(_CHUNK_BYTES)
        decoder.finish()


def _decode_text(body: bytes, charset: str, name: str) -> str:
    """Decode a part in its own charset: old forms and scripts send Chinese text in GBK."""
    try:
        if codecs.lookup(charset).name not in _CHARSETS:
            raise LookupError(charset)
        return body.decode(charset).removeprefix("\ufeff")
    except LookupError as error:
        message = f"the field's charset {one_line(charset)!r} is not supported; send UTF-8"
        raise FrontError(ErrorCode.INVALID_FIELD, message, name) from error
    except UnicodeDecodeError as error:
        message = f"the field is not in {charset}; send UTF-8, or name the charset of the part"
        raise FrontError(ErrorCode.INVALID_FIELD, message, name) from error


@asynccontextmanager
async def _body_limit(limit_s: float) -> AsyncIterator[None]:
    """Limit the time for reading a body; aiohttp has no such limit."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise FrontError(
            ErrorCode.REQUEST_TIMEOUT, f"the body did not arrive within {limit_s:g} s"
        ) from error


def _require_utf8(request: web.Request) -> None:
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise FrontError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "JSON must be sent as UTF-8")


def _unsupported(expected: str, request: web.Request) -> FrontError:
    return FrontError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type must be {expected}")
