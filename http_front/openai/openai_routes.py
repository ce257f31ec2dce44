"""The routes under `/v1`, compatible with OpenAI's Videos API and its list of models."""

from aiohttp import web

from broker.store.store import POSTER, SPRITES, VIDEO
from broker.wire.errors import ErrorCode
from broker.wire.replies import JobFound
from broker.wire.requests import GetJob
from http_front.access.key_guard import owner
from http_front.errors import FrontError
from http_front.files.file_routes import no_video, send_file
from http_front.images.spool import open_spools
from http_front.job_ids import use_job_id
from http_front.openai.openai_request import read_create
from http_front.openai.openai_schema import STATES, ModelList, Video, VideoDeleted, VideoList
from http_front.openai.sync_route import create_and_wait
from http_front.responses import json_response
from http_front.state import FRONT
from http_front.video.acceptance import accept
from http_front.video.listing import read_page, remove

POLL_AFTER_MS = 2000
"""Suggested polling interval. Clients keep the first value that they receive."""
VARIANTS = {"video": VIDEO, "thumbnail": POSTER, "spritesheet": SPRITES}


_VIDEO = "/v1/videos/{id:(?!sync$)[^/]+}"
"""Not the route of `create_and_wait`, which allows other methods."""


def add_routes(app: web.Application) -> None:
    app.add_routes(
        [
            web.post("/v1/videos", create),
            web.post("/v1/videos/sync", create_and_wait),
            web.get("/v1/videos", list_videos, allow_head=False),
            web.get(_VIDEO, retrieve, allow_head=False),
            web.delete(_VIDEO, delete),
            web.get("/v1/videos/{id}/content", content),
            web.get("/v1/models", list_models, allow_head=False),
            web.get("/v1/models/{id}", retrieve_model, allow_head=False),
        ]
    )


async def create(request: web.Request) -> web.Response:
    with open_spools(request.app[FRONT].partial_dir) as spools:
        job_id = await accept(request, await read_create(request, spools))
    return await _answer_video(request, job_id)


async def retrieve(request: web.Request) -> web.Response:
    return await _answer_video(request, _named_id(request))


async def list_videos(request: web.Request) -> web.Response:
    page = await read_page(request, STATES)
    models = request.app[FRONT].models
    videos = [Video.of(job, await models.profile_of(job.spec)) for job in page.jobs]
    return json_response(
        VideoList(
            data=videos,
            first_id=videos[0].id if videos else None,
            last_id=videos[-1].id if videos else None,
            has_more=page.has_more,
        )
    )


async def delete(request: web.Request) -> web.Response:
    """Delete a job and its files. A job that has not ended is cancelled first."""
    job_id = _named_id(request)
    await remove(request, job_id)
    return json_response(VideoDeleted(id=job_id))


async def content(request: web.Request) -> web.StreamResponse:
    job_id, variant = _named_id(request), request.query.get("variant", "video")
    if variant not in VARIANTS:
        names = ", ".join(VARIANTS)
        raise FrontError(ErrorCode.INVALID_FIELD, f"variant must be one of {names}", "variant")
    job = await _find(request, job_id)
    if job.job.video is None:
        raise no_video(job.job)
    return await send_file(request, job_id, VARIANTS[variant])


async def list_models(request: web.Request) -> web.Response:
    return json_response(ModelList.of(await request.app[FRONT].models.found()))


async def retrieve_model(request: web.Request) -> web.Response:
    listed = ModelList.of(await request.app[FRONT].models.found())
    name = request.match_info["id"].lower()
    model = next((m for m in listed.data if m.id.lower() == name), None)
    if model is None:
        names = ", ".join(each.id for each in listed.data)
        message = f"there is no such model; this server serves {names or 'none yet'}"
        raise FrontError(ErrorCode.NOT_FOUND, message, "id")
    return json_response(model)


async def _answer_video(request: web.Request, job_id: str) -> web.Response:
    found = await _find(request, job_id)
    profile = await request.app[FRONT].models.profile_of(found.job.spec)
    response = json_response(Video.of(found.job, profile))
    if not found.job.state.is_terminal:
        response.headers["openai-poll-after-ms"] = str(POLL_AFTER_MS)
    return response


async def _find(request: web.Request, job_id: str) -> JobFound:
    return await request.app[FRONT].broker.ask(GetJob(job_id=job_id, owner=owner(request)))


def _named_id(request: web.Request) -> str:
    return use_job_id(request.match_info["id"], "id")
