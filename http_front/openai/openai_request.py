"""Reads a create request of the OpenAI Videos API in all the forms that its clients send."""

import msgspec
from aiohttp import web

from broker.wire.errors import ErrorCode
from broker.wire.job import SpecError
from http_front.errors import FrontError
from http_front.images.spool import Spool, Spools
from http_front.models.known_models import ChosenModel
from http_front.openai.gateway_fields import drop_without_effect, settle_size, use_our_names
from http_front.openai.image_fields import (
    FILE_PART,
    FILE_PARTS,
    IMAGE_FIELDS,
    URL_PARTS,
    take_urls,
)
from http_front.openai.openai_schema import create_type, job_spec
from http_front.state import FRONT
from http_front.video.field_check import check
from http_front.video.form import read_form
from http_front.video.submission import (
    Picture,
    Submission,
    draw_seed,
    media_type_of,
    named_model,
    picture,
    read_json_fields,
)

_OPENAI_MODELS = "sora"
"""How the names of OpenAI's own models begin. Its clients send one although it means nothing."""


async def read_create(request: web.Request, spools: Spools) -> Submission:
    """Read a create request, and write uploaded images to the spools.

    Raises:
        FrontError: If the body is not valid.
    """
    by_name = spools._asdict()
    if media_type_of(request.headers) == "multipart/form-data":
        files = {part: by_name[image] for part, image in FILE_PARTS.items()}
        urls = {part: by_name[image] for part, image in URL_PARTS.items()}
        fields = await read_form(request, files, urls)
    else:
        fields = await read_json_fields(request, spools)
    drop_without_effect(fields)
    image_urls = take_urls(fields)
    image = _picture(spools, "image", image_urls["image"])
    if image is None:
        raise FrontError(
            ErrorCode.INVALID_FIELD,
            "give one image: a file as input_reference, or a URL as reference_url",
            FILE_PART,
        )
    model = await _choose(request, named_model(fields))
    use_our_names(fields)
    draw_seed(fields)
    try:
        area = settle_size(fields, model.profile)
    except SpecError as error:
        raise FrontError(ErrorCode.INVALID_FIELD, error.message, error.field) from error
    body = msgspec.structs.asdict(check(fields, create_type(model.profile), IMAGE_FIELDS))
    return Submission(
        job_spec(body, model.profile),
        model,
        image,
        _picture(spools, "last_image", image_urls["last_image"]),
        area=area,
        callback_url=body["callback_url"],
        priority=body["priority"],
    )


def _picture(spools: Spools, field: str, urls: list[str]) -> Picture | None:
    """Return the image that was sent as a file or as a URL; None if there is none."""
    own: Spool = getattr(spools, field)
    is_file = own.num_bytes > 0 and own.token is None
    if not urls and not is_file:
        return None
    if len(urls) + is_file > 1:
        name = FILE_PART if field == "image" else field
        raise FrontError(ErrorCode.INVALID_FIELD, f"give one {field}: a file or a URL", name)
    return picture(spools, field, urls[0] if urls else None)


async def _choose(request: web.Request, name: str | None) -> ChosenModel:
    """Return the model that a request names, or the default for a name that stands for none."""
    models = request.app[FRONT].models
    if name is None:
        return await models.choose(None)
    found = await models.found()
    served = {view.profile.name.lower(): view.profile.name for view in found.models}
    # Gateways put a provider or an organisation before the name.
    wanted = name.lower().rpartition("/")[2]
    if wanted.startswith(_OPENAI_MODELS):
        return await models.choose(served.get(wanted))
    return await models.choose(served.get(wanted, name))
