"""A create request of the OpenAI Videos API, in all forms that its clients send."""

from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

from broker.wire.job import FRAMES_PER_SECOND, JobSpec
from broker.wire.protocol import ErrorCode
from http_front.errors import FrontError
from http_front.images.spool import Spool
from http_front.openai.openai_schema import CLIENT_NAMES, OWN_NAMES, CreateVideo
from http_front.video.field_check import check, decode_json
from http_front.video.submission import Submission, read_form, read_json_fields

FILE_PART = "input_reference"
_URL_FIELDS = ("reference_url", "input_reference[image_url]")
_OBJECT_FIELDS = ("input_reference", "image_reference")
"""What holds `{"image_url": …}`, in a form as JSON text."""


async def read_create(request: web.Request, spool: Spool) -> Submission:
    """Return what is asked for; an image in the body is then in the spool.

    Raises:
        FrontError: If the body cannot be used.
    """
    if request.content_type == "multipart/form-data":
        fields = await read_form(request, spool, FILE_PART, frozenset(_URL_FIELDS))
    else:
        fields = await read_json_fields(request)
    urls = list(_take_urls(fields))
    if len(urls) + bool(spool.num_bytes) != 1:
        raise FrontError(
            ErrorCode.INVALID_FIELD,
            "give one image: a file as input_reference, or a URL as reference_url",
            FILE_PART,
        )
    asked = msgspec.structs.asdict(check(fields, CreateVideo, lax=True))
    url = urls[0] if urls else None
    return Submission(_job_spec(asked), url, asked["callback_url"], asked["priority"])


def _take_urls(fields: dict[str, object]) -> Iterator[str]:
    """Take the places of images out of the fields."""
    for name in _URL_FIELDS:
        if fields.get(name) is not None:
            yield _checked_url(name, fields[name])
        fields.pop(name, None)
    for name in _OBJECT_FIELDS:
        found = fields.pop(name, None)
        if found is not None:
            yield _url_in(name, found)


def _url_in(name: str, found: object) -> str:
    if isinstance(found, str):
        found = decode_json(found.encode()) if found.startswith("{") else {"image_url": found}
    if not isinstance(found, dict) or set(found) != {"image_url"}:
        raise FrontError(
            ErrorCode.INVALID_FIELD, f'{name} must be a file or {{"image_url": …}}', name
        )
    return _checked_url(name, found["image_url"])


def _checked_url(name: str, url: object) -> str:
    if isinstance(url, str) and url:
        return url
    raise FrontError(ErrorCode.INVALID_FIELD, f"{name} must name the URL of an image", name)


def _job_spec(asked: dict[str, Any]) -> JobSpec:
    """Return the job that the other fields describe."""
    own = {OWN_NAMES[name]: value for name, value in asked.items() if name in OWN_NAMES}
    given = {name: value for name, value in own.items() if value is not None}
    if asked["seconds"] is not None and "num_frames" not in given:
        given["num_frames"] = _num_frames(asked["seconds"])
    try:
        return check(given, JobSpec)
    except FrontError as error:
        # Our names mean nothing to this client.
        own_name = error.field or ""
        name = CLIENT_NAMES.get(own_name, own_name)
        raise FrontError(error.code, error.message.replace(own_name, name), name) from error


def _num_frames(seconds: str | float) -> int:
    num_frames = round(float(seconds) * FRAMES_PER_SECOND)
    try:
        check({"prompt": "only the length counts", "num_frames": num_frames}, JobSpec)
    except FrontError as error:
        raise FrontError(
            ErrorCode.INVALID_FIELD,
            f"seconds is {seconds}; a video lasts from 1.5 to 7.5625 seconds "
            "(num_frames from 24 to 121)",
            "seconds",
        ) from error
    return num_frames
