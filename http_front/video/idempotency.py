"""The `Idempotency-Key` header, and the hash that tells whether two requests are the same."""

import hashlib
import re
from collections.abc import Sequence

import msgspec
from aiohttp import web

from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec
from broker.wire.lora import hashes_of
from broker.wire.requests import IdempotencyKey
from http_front.errors import FrontError
from http_front.models.known_models import ChosenModel
from http_front.models.profile_fields import narrowed
from http_front.video.size_field import AreaLimit

HEADER = "Idempotency-Key"
_KEY = re.compile("[!-~]{1,255}")


def read_key(request: web.Request) -> str | None:
    """Return the value of the header; None if there is none.

    Raises:
        FrontError: If the header is repeated or malformed.
    """
    keys = request.headers.getall(HEADER, [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise FrontError(
            ErrorCode.INVALID_FIELD,
            f"send one {HEADER} of 1 to 255 visible ASCII characters",
            HEADER,
        )
    return keys[0]


def identify(
    key: str,
    spec: JobSpec,
    images: Sequence[str],
    callback_url: str | None = None,
    priority: int = 0,
    *,
    area: AreaLimit | None = None,
    model: ChosenModel,
) -> IdempotencyKey:
    """Return the key with a hash of its request.

    The hash leaves out fields that have their default value, and the name of the default model. A
    request is therefore the same whether it spells out a default or not, and a field added by a
    later version does not change the hash of older requests.

    Args:
        key: The client's key.
        spec: The job as the client described it, before the server chooses a seed.
        images: First and last image: the URL as the client wrote it, or the hash of the uploaded
            file.
        callback_url: As in the request.
        priority: As in the request.
        area: Set if the image decides the size.
        model: Decides the defaults.
    """
    fields = {
        field.name: getattr(spec, field.name)
        for field in msgspec.structs.fields(narrowed(JobSpec, model.profile))
        if field.name != "model" and getattr(spec, field.name) != field.default
    }
    if not model.is_default:
        fields["model"] = model.name
    asked: dict[str, object] = {"spec": fields, "image": images[0]}
    if spec.loras:
        # Another file under the same name makes another request.
        asked["lora_hashes"] = hashes_of(spec.loras, model.profile.loras)
    if len(images) > 1:
        asked["last_image"] = images[1]
    if area is not None:
        asked["max_pixels"] = area.max_pixels
    if callback_url is not None:
        asked["callback_url"] = callback_url
    if priority:
        asked["priority"] = priority
    request_hash = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
    return IdempotencyKey(key=key, request_hash=request_hash)
