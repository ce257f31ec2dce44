"""What makes two submit requests the same: the client's key, and all that it asked for."""

import hashlib
import re

import msgspec
from aiohttp import web

from broker.wire.job import JobSpec
from broker.wire.protocol import ErrorCode, IdempotencyKey
from http_front.errors import FrontError

HEADER = "Idempotency-Key"
_KEY = re.compile("[!-~]{1,255}")


def read_key(request: web.Request) -> str | None:
    """Return the client's key for a request.

    Raises:
        FrontError: If there are several, or if it cannot be used.
    """
    keys = request.headers.getall(HEADER, [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise FrontError(
            ErrorCode.INVALID_FIELD, f"{HEADER} must be 1 to 255 visible ASCII characters", HEADER
        )
    return keys[0]


def identify(
    key: str, spec: JobSpec, image: str, callback_url: str | None = None, priority: int = 0
) -> IdempotencyKey:
    """Return the key with the hash of its request.

    Fields that have their default are left out: whether they are written makes no other request,
    nor does a field that a later version of the server adds.

    Args:
        key: What the client calls its request.
        spec: The job as the client described it, before a seed is chosen for it.
        image: The URL of the image as the client wrote it, or the hash of the uploaded file.
        callback_url: Where the client wants to hear of the end.
        priority: How urgent it is.
    """
    fields = {
        field.name: getattr(spec, field.name)
        for field in msgspec.structs.fields(JobSpec)
        if getattr(spec, field.name) != field.default
    }
    asked: dict[str, object] = {"spec": fields, "image": image}
    if callback_url is not None:
        asked["callback_url"] = callback_url
    if priority:
        asked["priority"] = priority
    request_hash = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
    return IdempotencyKey(key=key, request_hash=request_hash)
