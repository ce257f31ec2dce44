"""Read a submit request: JSON with an image URL, or a form with an image file or URL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import BodyPartReader, web

from broker.job import JobSpec
from broker.protocol import ErrorCode
from http_front.errors import FrontError
from http_front.field_check import Body, check, decode_json
from http_front.schema import SubmitByUrl
from http_front.spool import MAX_IMAGE_BYTES, Spool, image_too_large

MAX_JSON_BYTES = 1 << 16
MAX_PARTS = 64
MAX_FORM_BYTES = MAX_IMAGE_BYTES + (1 << 20)
BODY_LIMIT_S = 10.0
UPLOAD_LIMIT_S = 120.0
_CHUNK_BYTES = 1 << 16


class Submission(NamedTuple):
    """A submit request as its client wrote it."""

    spec: JobSpec
    image_url: str | None
    """Where the image is; None if it has been uploaded."""


async def read_json(request: web.Request, body_type: type[Body]) -> Body:
    """Return the checked body of a JSON request.

    Raises:
        FrontError: If it is no JSON, too slow, too large, or not of this type.
    """
    if request.content_type != "application/json":
        raise _unsupported("application/json", request)
    _require_utf8(request)
    async with _body_limit(BODY_LIMIT_S):
        body = await request.read()
    return check(decode_json(body), body_type)


async def read_submission(request: web.Request, spool: Spool) -> Submission:
    """Return what a submit request asks for; an uploaded image is then in the spool.

    Raises:
        FrontError: If the body cannot be used.
    """
    if request.content_type == "multipart/form-data":
        return await _read_form(request, spool)
    if request.content_type != "application/json":
        raise _unsupported("application/json or multipart/form-data", request)
    body = await read_json(request, SubmitByUrl)
    return Submission(body.spec, body.image_url)


async def _read_form(request: web.Request, spool: Spool) -> Submission:
    async with _body_limit(UPLOAD_LIMIT_S):
        fields = await _read_parts(request, spool)
    if spool.num_bytes:
        if "image_url" in fields:
            raise FrontError(
                ErrorCode.INVALID_FIELD, "give either image or image_url, not both", "image_url"
            )
        return Submission(check(fields, JobSpec, lax=True), None)
    body = check(fields, SubmitByUrl, lax=True)
    return Submission(body.spec, body.image_url)


async def _read_parts(request: web.Request, spool: Spool) -> dict[str, object]:
    """Return the text parts of a form; the bytes of the part `image` go to the spool."""
    if (request.content_length or 0) > MAX_FORM_BYTES:
        raise image_too_large()
    fields: dict[str, object] = {}
    try:
        reader = await request.multipart()
        for _ in range(MAX_PARTS):
            part = await reader.next()
            if part is None:
                return fields
            await _read_part(part, fields, spool)
    except (ValueError, LookupError, RuntimeError, AssertionError) as error:
        # All of them are what aiohttp raises for malformed forms.
        raise FrontError(ErrorCode.INVALID_BODY, "the body is not a valid form") from error
    raise FrontError(ErrorCode.INVALID_BODY, f"the form has more than {MAX_PARTS} parts")


async def _read_part(part: object, fields: dict[str, object], spool: Spool) -> None:
    if not isinstance(part, BodyPartReader) or not part.name:
        raise ValueError("a part without a name, or with parts of its own")
    if part.name in fields or (part.name == "image" and spool.num_bytes):
        raise FrontError(ErrorCode.INVALID_BODY, "the form has two parts of one name")
    if part.name == "image":
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            spool.write(chunk)
        if not spool.num_bytes:
            raise FrontError(ErrorCode.IMAGE_INVALID, "the image is an empty file", "image")
        return
    fields[part.name] = await _read_text(part)


async def _read_text(part: BodyPartReader) -> str:
    body = bytearray()
    while chunk := await part.read_chunk(_CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise FrontError(
                ErrorCode.BODY_TOO_LARGE, f"a text part has more than {MAX_JSON_BYTES} bytes"
            )
    return body.decode()


@asynccontextmanager
async def _body_limit(limit_s: float) -> AsyncIterator[None]:
    """Bound the time for a body; aiohttp itself waits for ever."""
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
