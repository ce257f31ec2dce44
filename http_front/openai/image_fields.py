"""The images of a create request, in all the fields that clients and gateways put them in."""

from collections.abc import Iterator

import msgspec

from broker.wire.errors import ErrorCode
from http_front.errors import FrontError
from http_front.video.field_check import decode_json

FILE_PART = "input_reference"
FILE_PARTS = {FILE_PART: "image", "image": "image", "last_image": "last_image"}
"""Parts of a form with an image file, and which image it is."""
_URL_FIELDS = {
    **dict.fromkeys(("reference_url", "image_url", "image", "start_image"), "image"),
    **dict.fromkeys(("last_image_url", "end_image"), "last_image"),
    **{
        f"{name}[image_url]{more}": image
        for name, image in (("input_reference", "image"), ("last_image", "last_image"))
        for more in ("", "[url]")
    },
}
"""Fields with a URL. In a form of the `openai` package, brackets stand for nested objects."""
_OBJECT_FIELDS = {
    "input_reference": "image",
    "image_reference": "image",
    "last_image": "last_image",
}
"""Fields that hold a URL or `{"image_url": …}`; in a form, as JSON text."""
_TYPE_FIELDS = ("input_reference[type]", "last_image[type]")
URL_PARTS = _URL_FIELDS | _OBJECT_FIELDS
"""Parts of a form that may hold a long data URL."""
_FRAMES_FIELD = "frame_images"
_FRAMES = {"first": "image", "last": "last_image"}
IMAGE_FIELDS = ("input_reference", "reference_url", "last_image", "last_image_url", _FRAMES_FIELD)


def take_urls(fields: dict[str, object]) -> dict[str, list[str]]:
    """Remove the image fields from `fields`; return the URLs of the first and the last image.

    Raises:
        FrontError: If a field holds no URL.
    """
    urls: dict[str, list[str]] = {image: [] for image in _FRAMES.values()}
    for name in _TYPE_FIELDS:
        fields.pop(name, None)
    for name, image in _URL_FIELDS.items():
        value = fields.pop(name, None)
        if value is not None:
            urls[image].append(_plain_url(name, value))
    for name, image in _OBJECT_FIELDS.items():
        value = fields.pop(name, None)
        if value is not None:
            urls[image].append(_url_in(name, value))
    for image, url in _frames(fields.pop(_FRAMES_FIELD, None)):
        urls[image].append(url)
    return urls


def _frames(value: object) -> Iterator[tuple[str, str]]:
    """Yield which image each frame is, and its URL."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            raise _not_frames() from None
    if value is None:
        return
    if not isinstance(value, list):
        raise _not_frames()
    for frame in value:
        yield _frame(frame)


def _frame(frame: object) -> tuple[str, str]:
    """Return the image and the URL of `{"image_url": …, "frame_type": "first_frame"}`."""
    if not isinstance(frame, dict):
        raise _not_frames()
    rest = {name: value for name, value in frame.items() if name != "type"}
    which = str(rest.pop("frame_type", None) or rest.pop("frame", None)).removesuffix("_frame")
    picture = rest.pop("image_url", None) or rest.pop("image", None)
    if which not in _FRAMES or picture is None or rest:
        raise _not_frames()
    return _FRAMES[which], _plain_url(_FRAMES_FIELD, picture)


def _not_frames() -> FrontError:
    form = '[{"image_url": {"url": …}, "frame_type": "first_frame" or "last_frame"}]'
    message = f"{_FRAMES_FIELD} must be a list {form}"
    return FrontError(ErrorCode.INVALID_FIELD, message, _FRAMES_FIELD)


def _url_in(name: str, value: object) -> str:
    if isinstance(value, str):
        value = decode_json(value.encode()) if value.startswith("{") else {"image_url": value}
    if not isinstance(value, dict) or set(value) - {"type"} != {"image_url"}:
        raise FrontError(
            ErrorCode.INVALID_FIELD, f'{name} must be a file or {{"image_url": …}}', name
        )
    return _plain_url(name, value["image_url"])


def _plain_url(name: str, value: object) -> str:
    """Return a URL that may be written as `{"url": …}`."""
    if isinstance(value, dict) and set(value) <= {"url", "detail"}:
        value = value.get("url")
    return _checked_url(name, value)


def _checked_url(name: str, url: object) -> str:
    if isinstance(url, str) and url:
        return url
    raise FrontError(ErrorCode.INVALID_FIELD, f"{name} must be the URL of an image", name)
