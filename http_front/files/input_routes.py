"""The routes of a job's pictures: the stored inputs, so that they can be submitted again."""

import io

from aiohttp import web

from broker.store.store import INPUTS, Store
from broker.wire.errors import ErrorCode
from broker.wire.job import JOB_ID_PATTERN
from broker.wire.requests import GetJob
from http_front.access.key_guard import owner
from http_front.errors import FrontError
from http_front.files.file_routes import send_stored
from http_front.job_ids import use_job_id
from http_front.state import FRONT

INPUT = ".input.webp"
LAST_INPUT = ".last_input.webp"
_WEBP = "image/webp"


def add_routes(app: web.Application) -> None:
    for ending in (INPUT, LAST_INPUT):
        app.router.add_get(f"/videos/{{requestId:{JOB_ID_PATTERN}}}{ending}", send_input)


async def send_input(request: web.Request) -> web.StreamResponse:
    """Respond with a picture of a job, to those who may have its video.

    Its pixels are those that the ranks see: submitted again, it makes the same video.
    """
    front = request.app[FRONT]
    job_id = use_job_id(request.match_info["requestId"])
    found = await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
    is_last = request.path.endswith(LAST_INPUT)
    image = found.job.last_image if is_last else found.job.image
    if image is None:
        raise _no_picture("the job has no last frame of its own")
    name = f"{INPUTS}/{image}"
    if name.endswith(".webp"):
        try:
            return await send_stored(request, name, _WEBP)
        except FrontError as error:
            raise error if error.code is not ErrorCode.NOT_FOUND else _no_picture() from error
    body = await front.files.call(lambda: _as_webp(front.files.store, name))
    return web.Response(body=body, content_type=_WEBP)


def _as_webp(store: Store, name: str) -> bytes:
    """Return a picture that an earlier version stored as PPM."""
    from PIL import Image  # the front needs it for such a picture only

    encoded = io.BytesIO()
    try:
        with Image.open(store.fetch(name)) as picture:
            picture.save(encoded, "WEBP", lossless=True, quality=0, method=0)
    except FileNotFoundError:
        raise _no_picture() from None
    finally:
        store.release(name)
    return encoded.getvalue()


def _no_picture(why: str = "it was removed") -> FrontError:
    return FrontError(ErrorCode.NOT_FOUND, f"there is no picture: {why}")
