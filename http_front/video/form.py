"""Reads forms: image files and data URLs go to spools, the other parts are text."""

import codecs
import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web

from broker.process.log import one_line
from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.images.data_url import DataUrlDecoder
from http_front.images.spool import Spool, image_too_large
from http_front.video.bounded_body import MAX_FORM_BYTES, MAX_TEXT_BYTES, BoundedBody, body_limit

MAX_PARTS = 64
MAX_PART_HEADERS = 16
UPLOAD_LIMIT_S = 120.0
_CHUNK_BYTES = 1 << 16
_MAX_NAME_BYTES = 255
"""Longest name of a file on most systems; every image has more bytes."""

_CHARSETS = frozenset(
    {
        *("utf-8", "utf-8-sig", "ascii", "utf-16", "utf-16-le", "utf-16-be"),
        *("gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"),
        *("iso8859-1", "cp1252"),
    }
)
"""Python's names of the charsets that a part may be in; some of its other codecs are slow."""
_IMAGES = {"image": "images", "last_image": "last images"}


async def read_form(
    request: web.Request,
    file_parts: Mapping[str, Spool],
    url_parts: Mapping[str, Spool] = MappingProxyType({}),
) -> dict[str, object]:
    """Read a form, write its images to their spools, and return its text parts.

    Args:
        request: The request with the form.
        file_parts: The spools of the parts with image files, by name.
        url_parts: The spools of the parts that may hold an image as a data URL, by name.

    Raises:
        FrontError: If the form is malformed, too slow or too large.
    """
    form = _Form(file_parts, url_parts)
    async with body_limit(UPLOAD_LIMIT_S):
        await _read_parts(request, form)
    return form.fields


async def _read_parts(request: web.Request, form: "_Form") -> None:
    if (request.content_length or 0) > MAX_FORM_BYTES:
        raise image_too_large("image")
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
    """Reads a form: the images go to their spools, the other parts to `fields`."""

    def __init__(self, file_parts: Mapping[str, Spool], url_parts: Mapping[str, Spool]) -> None:
        self.fields: dict[str, object] = {}
        self._file_parts = file_parts
        self._url_parts = url_parts

    async def read_part(self, part: object) -> None:
        if not isinstance(part, BodyPartReader) or not part.name:
            raise ValueError("a part has no name or is a nested multipart")
        # Where the part may also be a URL, only a file has a file name.
        spool = self._file_parts.get(part.name)
        if part.name in self.fields:
            raise FrontError(ErrorCode.INVALID_BODY, "the form has two parts with the same name")
        if spool is None or (part.name in self._url_parts and not part.filename):
            await self._read_text(part, part.name)
        elif spool.num_bytes:
            raise FrontError(ErrorCode.INVALID_BODY, f"the form has two {_IMAGES[spool.field]}")
        else:
            await self._read_file(part, part.name, spool)

    async def _read_file(self, part: BodyPartReader, name: str, spool: Spool) -> None:
        chunk = await part.read_chunk(_CHUNK_BYTES)
        if not part.filename:
            _refuse_name_of_file(chunk, name)
        while chunk:
            spool.write(chunk)
            chunk = await part.read_chunk(_CHUNK_BYTES)
        # For a file that was not chosen, a page sends an empty part without a file name.
        is_left_out = spool.field == "last_image" and not part.filename
        if not spool.num_bytes and not is_left_out:
            raise FrontError(ErrorCode.IMAGE_INVALID, "the image is an empty file", name)

    async def _read_text(self, part: BodyPartReader, name: str) -> None:
        body = bytearray(await part.read_chunk(_CHUNK_BYTES))
        spool = self._url_parts.get(name)
        head_bytes = 0 if spool is None else DataUrlDecoder.head_bytes(bytes(body))
        if spool is not None and head_bytes and not spool.num_bytes:
            decoder = DataUrlDecoder(name, spool)
            await self._read_data_url(part, decoder, bytes(body[head_bytes:]))
            return
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_TEXT_BYTES:
                raise FrontError(
                    ErrorCode.BODY_TOO_LARGE, f"a text part has more than {MAX_TEXT_BYTES} bytes"
                )
        self.fields[name] = _decode_text(bytes(body), part.get_charset("utf-8"), name)

    async def _read_data_url(
        self, part: BodyPartReader, decoder: DataUrlDecoder, start: bytes
    ) -> None:
        chunk = start
        while chunk:
            decoder.write(chunk)
            chunk = await part.read_chunk(_CHUNK_BYTES)
        decoder.finish()


def _refuse_name_of_file(content: bytes, name: str) -> None:
    """Recognise what curl sends for -F image=boat.jpg: a text."""
    if not 0 < len(content) <= _MAX_NAME_BYTES:
        return
    with contextlib.suppress(UnicodeDecodeError):
        if (text := content.decode()).isprintable():
            raise FrontError(
                ErrorCode.IMAGE_INVALID,
                f'{name} is the text "{text}", not a file; with curl, write -F {name}=@FILE',
                name,
            )


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
