"""Read a submit request: JSON with image URLs, or a form with image files or URLs."""

import asyncio
from collections.abc import Mapping
from email.message import Message
from typing import NamedTuple

from aiohttp import hdrs, web

from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec, SpecError
from broker.wire.model_profile import ModelProfile
from http_front.errors import FrontError
from http_front.images.spool import Spool, Spools, image_too_large
from http_front.models.known_models import ChosenModel
from http_front.models.length_notice import notice_of
from http_front.models.profile_fields import narrowed
from http_front.state import FRONT
from http_front.video.bounded_body import MAX_JSON_BYTES, MAX_TEXT_BYTES, body_limit
from http_front.video.field_check import Body, check, decode_json
from http_front.video.form import UPLOAD_LIMIT_S, read_form
from http_front.video.images_in_json import ImagesInJson
from http_front.video.schema import SubmitByFile, SubmitByUrl
from http_front.video.size_field import AreaLimit, read_size

BODY_LIMIT_S = 10.0
_CHUNK_BYTES = 1 << 14
_FILES = ("image", "last_image")
"""The fields with an image file, which only a form has."""


class Picture(NamedTuple):
    """An image of a request."""

    spool: Spool
    """Holds the image if it was uploaded; otherwise receives it from its URL."""
    url: str | None
    """None if the image was uploaded."""


class Submission(NamedTuple):
    """A submit request as the client wrote it."""

    spec: JobSpec
    model: ChosenModel
    image: Picture
    last_image: Picture | None = None
    area: AreaLimit | None = None
    """Set if the image decides the size; the size in `spec` is then one of that area."""
    callback_url: str | None = None
    priority: int = 0

    @property
    def notice(self) -> str | None:
        """What the client should know of the video although the job is accepted."""
        return notice_of(self.spec, self.model.profile)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return (self.image,) if self.last_image is None else (self.image, self.last_image)


async def read_json(request: web.Request, body_type: type[Body]) -> Body:
    """Read a JSON request and check it against a struct.

    Raises:
        FrontError: If the body is not JSON, too slow, too large, or does not fit the struct.
    """
    return check(await read_json_fields(request), body_type)


async def read_json_fields(request: web.Request, spools: Spools | None = None) -> dict[str, object]:
    """Read the fields of a JSON request.

    Args:
        request: The request.
        spools: Receive data URLs, if the body may be longer than a text because of them.

    Raises:
        FrontError: If the body is not a JSON object, too slow or too large.
    """
    if media_type_of(request.headers) != "application/json":
        raise _unsupported("application/json")
    _require_utf8(request.headers)
    if spools is None:
        async with body_limit(BODY_LIMIT_S):
            return decode_json(await request.read())
    if (request.content_length or 0) > MAX_JSON_BYTES:
        raise image_too_large("image")
    async with body_limit(BODY_LIMIT_S):
        start = await _read_text(request)
    if len(start) <= MAX_TEXT_BYTES:
        return decode_json(start)
    async with body_limit(UPLOAD_LIMIT_S):
        return await _read_images(request, start, spools)


async def _read_text(request: web.Request) -> bytes:
    """Return a body, or as much of it as is longer than a text may be."""
    if 0 < (request.content_length or 0) <= MAX_TEXT_BYTES:
        return await request.read()
    body = b""
    while len(body) <= MAX_TEXT_BYTES and (chunk := await request.content.read(_CHUNK_BYTES)):
        body += chunk
        await asyncio.sleep(0)  # reading does not yield to other requests while data is there
    return body


async def _read_images(request: web.Request, start: bytes, spools: Spools) -> dict[str, object]:
    """Return the fields of a long body, given its start; its images go to the spools."""
    images, num_bytes = ImagesInJson(spools), len(start)
    images.write(start)
    while chunk := await request.content.read(_CHUNK_BYTES):
        num_bytes += len(chunk)
        if num_bytes > MAX_JSON_BYTES:
            raise image_too_large("image")
        images.write(chunk)
        await asyncio.sleep(0)
    return images.finish()


async def read_submission(request: web.Request, spools: Spools) -> Submission:
    """Read a submit request, and write uploaded images to the spools.

    Raises:
        FrontError: If the body is not valid.
    """
    media_type = media_type_of(request.headers)
    if media_type == "multipart/form-data":
        files = {spool.field: spool for spool in spools}
        urls = {f"{name}_url": spool for name, spool in files.items()}
        fields = await read_form(request, files, urls)
        _refuse_two_sources(fields, spools)
    elif media_type == "application/json":
        fields = await read_json_fields(request, spools)
    else:
        raise _unsupported("application/json or multipart/form-data")
    front = request.app[FRONT]
    model = await front.models.choose(named_model(fields))
    draw_seed(fields)
    area = _settle_size(fields, model.profile)
    is_upload = spools.image.num_bytes > 0 and spools.image.token is None
    asked: type[SubmitByFile] = SubmitByFile if is_upload else SubmitByUrl
    body = check(fields, narrowed(asked, model.profile, front.config.text_limits), _FILES)
    url = body.image_url if isinstance(body, SubmitByUrl) else None
    return _submission(body, model, picture(spools, "image", url), spools, area)


def media_type_of(headers: Mapping[str, str]) -> str:
    """Return the media type of a request, without its parameters.

    aiohttp's `request.content_type` makes three classes for each new boundary of a form. A class
    is part of a reference cycle, so its memory would stay in use until a full garbage collection.
    """
    return headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()


def picture(spools: Spools, field: str, url: str | None) -> Picture:
    """Return an image of a request, which came as a file, as a data URL, or as another URL."""
    spool = spools.of(field, url)
    return Picture(spool, None if spool.token is not None else url)


def named_model(fields: dict[str, object]) -> str | None:
    """Return the model that a request names; None also if its field is no text, to be refused."""
    name = fields.get("model")
    return name if isinstance(name, str) else None


def draw_seed(fields: dict[str, object]) -> None:
    """Remove a seed of -1, by which many clients ask for a random one."""
    if fields.get("seed") in (-1, "-1"):
        del fields["seed"]


def _settle_size(fields: dict[str, object], profile: ModelProfile) -> AreaLimit | None:
    text = fields.get("image_size")
    if not isinstance(text, str):
        return None
    try:
        size = read_size(text, profile)
    except SpecError as error:
        raise FrontError(ErrorCode.INVALID_FIELD, error.message, error.field) from error
    area = size if isinstance(size, AreaLimit) else None
    fields["image_size"] = size.any_size if isinstance(size, AreaLimit) else size
    return area


def _submission(
    body: SubmitByFile,
    model: ChosenModel,
    image: Picture,
    spools: Spools,
    area: AreaLimit | None,
) -> Submission:
    last_image = None
    is_upload = spools.last_image.num_bytes > 0 and spools.last_image.token is None
    if is_upload or body.last_image_url is not None:
        last_image = picture(spools, "last_image", body.last_image_url)
    return Submission(
        body.spec,
        model,
        image,
        last_image,
        area=area,
        callback_url=body.callback_url,
        priority=body.priority,
    )


def _refuse_two_sources(fields: dict[str, object], spools: Spools) -> None:
    for spool in spools:
        url_field = f"{spool.field}_url"
        if spool.num_bytes and url_field in fields:
            raise FrontError(
                ErrorCode.INVALID_FIELD,
                f"give either {spool.field} or {url_field}, not both",
                url_field,
            )


def _require_utf8(headers: Mapping[str, str]) -> None:
    content_type = Message()
    if ";" in headers[hdrs.CONTENT_TYPE]:
        content_type["Content-Type"] = headers[hdrs.CONTENT_TYPE]
    if (content_type.get_content_charset() or "utf-8") not in ("utf-8", "utf8"):
        raise FrontError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "JSON must be sent as UTF-8")


def _unsupported(expected: str) -> FrontError:
    return FrontError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type must be {expected}")
