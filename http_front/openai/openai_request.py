"""Reads a create request of the OpenAI Videos API in all the forms that its clients send."""

from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

from broker.wire.errors import ErrorCode
from broker.wire.job import FRAMES_PER_SECOND, JobSpec
from http_front.errors import FrontError
from http_front.images.spool import Spool
from http_front.openai.openai_schema import JOB_NAMES, OPENAI_NAMES, CreateVideo
from http_front.video.field_check import check, decode_json
from http_front.video.submission import Submission, read_form, read_json_fields

FILE_PART = "input_reference"
_URL_FIELDS = ("reference_url", "input_reference[image_url]")
_OBJECT_FIELDS = ("input_reference", "image_reference")
"""Fields that hold `{"image_url": …}`; in a form, as JSON text."""


async def read_create(request: web.Request, spool: Spool) -> Submission:
    """Read a create request, and write an uploaded image to the spool.

    Raises:
        FrontError: If the body is not valid.
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
    body = msgspec.structs.asdict(check(fields, CreateVideo, lax=True))
    url = urls[0] if urls else None
    return Submission(_job_spec(body), url, body["callback_url"], body["priority"])


def _take_urls(fields: dict[str, object]) -> Iterator[str]:
    """Remove the image fields from `fields`, and yield their URLs."""
    for name in _URL_FIELDS:
        if fields.get(name) is not None:
            yield _checked_url(name, fields[name])
        fields.pop(name, None)
    for name in _OBJECT_FIELDS:
        value = fields.pop(name, None)
        if value is not None:
            yield _url_in(name, value)


def _url_in(name: str, value: object) -> str:
    if isinstance(value, str):
        value = decode_json(value.encode()) if value.startswith("{") else {"image_url": value}
    if not isinstance(value, dict) or set(value) != {"image_url"}:
        raise FrontError(
            ErrorCode.INVALID_FIELD, f'{name} must be a file or {{"image_url": …}}', name
        )
    return _checked_url(name, value["image_url"])


def _checked_url(name: str, url: object) -> str:
    if isinstance(url, str) and url:
        return url
    raise FrontError(ErrorCode.INVALID_FIELD, f"{name} must be the URL of an image", name)


def _job_spec(body: dict[str, Any]) -> JobSpec:
    renamed = {JOB_NAMES[name]: value for name, value in body.items() if name in JOB_NAMES}
    given = {name: value for name, value in renamed.items() if value is not None}
    if body["seconds"] is not None and "num_frames" not in given:
        given["num_frames"] = _num_frames(body["seconds"])
    try:
        return check(given, JobSpec)
    except FrontError as error:
        # Use the field name that this client knows.
        job_name = error.field or ""
        name = OPENAI_NAMES.get(job_name, job_name)
        raise FrontError(error.code, error.message.replace(job_name, name), name) from error


def _num_frames(seconds: str | float) -> int:
    num_frames = round(float(seconds) * FRAMES_PER_SECOND)
    try:
        check({"prompt": "checks num_frames only", "num_frames": num_frames}, JobSpec)
    except FrontError as error:
        raise FrontError(
            ErrorCode.INVALID_FIELD,
            f"seconds is {seconds}; it must be from 1.5 to 7.5625 (num_frames from 24 to 121)",
            "seconds",
        ) from error
    return num_frames
