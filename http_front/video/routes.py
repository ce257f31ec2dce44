"""One coroutine per route."""

import re

import msgspec
from aiohttp import web

from broker.process.log import current_job
from broker.wire.protocol import (
    CancelJob,
    DrainBegun,
    DrainServer,
    ErrorCode,
    ExpiredRemoved,
    GetHealth,
    GetJob,
    HealthFound,
    JobFound,
    RemoveExpired,
)
from http_front.access.key_guard import caller, owner
from http_front.errors import FrontError
from http_front.images.spool import open_spool
from http_front.state import FRONT
from http_front.video.acceptance import accept
from http_front.video.schema import (
    Alive,
    Cancelled,
    Draining,
    Health,
    JobRef,
    JobStatus,
    Removed,
    Submitted,
    WebhookSecret,
)
from http_front.video.submission import read_json, read_submission

HEALTH_LIMIT_S = 3.0
_JOB_ID = re.compile("[0-9a-f]{32}")


async def submit(request: web.Request) -> web.Response:
    """Submit a job."""
    with open_spool(request.app[FRONT].partial_dir) as spool:
        job_id = await accept(request, await read_submission(request, spool), spool)
    return answer(Submitted(requestId=job_id), status=202)


async def status(request: web.Request) -> web.Response:
    """Tell how a job is."""
    job_id = subject((await read_json(request, JobRef)).requestId)
    front = request.app[FRONT]
    job = front.news.find(job_id, owner(request))
    if job is None:
        reply = await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
        assert isinstance(reply, JobFound)
        job = reply.job
        front.news.hear(job)
    return answer(JobStatus.of(job))


async def cancel(request: web.Request) -> web.Response:
    """End a job; whoever is answered 200 never sees it succeed."""
    job_id = subject((await read_json(request, JobRef)).requestId)
    front = request.app[FRONT]
    reply = await front.broker.ask(CancelJob(job_id=job_id, owner=owner(request)))
    assert isinstance(reply, JobFound)
    front.news.hear(reply.job)
    return answer(Cancelled(status=reply.job.state))


async def health(request: web.Request) -> web.Response:
    """Tell whether jobs are served, with one row per rank."""
    front = request.app[FRONT]
    try:
        reply = await front.broker.ask(GetHealth(), HEALTH_LIMIT_S)
    except FrontError:
        return answer(Health(status="unhealthy"), status=503)
    assert isinstance(reply, HealthFound)
    told = Health.of(reply)
    if front.config.api_keys is not None and caller(request) is None:
        told = Health(status=told.status)  # the rest is nothing for strangers
    return answer(told, status=200 if told.status == "healthy" else 503)


async def live(_request: web.Request) -> web.Response:
    """Tell that the front itself answers."""
    return answer(Alive())


async def webhook_secret(request: web.Request) -> web.Response:
    """Tell what the caller's receivers check signatures with."""
    callbacks = request.app[FRONT].callbacks
    if callbacks is None:
        raise FrontError(ErrorCode.NOT_FOUND, "this server makes no callbacks")
    return answer(WebhookSecret(secret=await callbacks.secret(owner(request))))


async def cleanup(request: web.Request) -> web.Response:
    """Remove expired jobs now."""
    reply = await request.app[FRONT].broker.ask(RemoveExpired())
    assert isinstance(reply, ExpiredRemoved)
    return answer(Removed(removed=reply.removed))


async def drain(request: web.Request) -> web.Response:
    """Start nothing more, and end the server when what runs has finished, as SIGTERM does."""
    reply = await request.app[FRONT].broker.ask(DrainServer())
    assert isinstance(reply, DrainBegun)
    return answer(Draining(running=reply.running), status=202)


def answer(body: msgspec.Struct, status: int = 200) -> web.Response:
    """Return the JSON response that holds a body."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def subject(text: str, field: str = "requestId") -> str:
    """Return the id of the job that a request is about; the request's log lines now name it.

    Raises:
        FrontError: If no job can have it.
    """
    job_id = checked_id(text, field)
    current_job.set(job_id)  # aiohttp runs each request in a context of its own
    return job_id


def checked_id(text: str, field: str = "requestId") -> str:
    """Return the text if it can be the id of a job.

    Raises:
        FrontError: If no job can have it.
    """
    if not _JOB_ID.fullmatch(text):
        raise FrontError(ErrorCode.JOB_NOT_FOUND, "there is no such job", field)
    return text
