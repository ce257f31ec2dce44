"""One coroutine per route."""

import asyncio
import re
import secrets

import msgspec
from aiohttp import web

from broker.job import JobSpec
from broker.protocol import (
    CancelJob,
    DrainBegun,
    DrainServer,
    ErrorCode,
    ExpiredRemoved,
    GetHealth,
    GetJob,
    HealthTold,
    IdempotencyKey,
    JobFound,
    OfferJob,
    RemoveExpired,
    SubmitJob,
)
from http_front.errors import FrontError
from http_front.idempotency import identify, read_key
from http_front.key_guard import caller, owner, queue_share
from http_front.schema import (
    Alive,
    Cancelled,
    Draining,
    Health,
    JobRef,
    JobStatus,
    Removed,
    Submitted,
)
from http_front.spool import Spool, open_spool
from http_front.state import FRONT
from http_front.submission import Submission, read_json, read_submission

HEALTH_LIMIT_S = 3.0
_JOB_ID = re.compile("[0-9a-f]{32}")
_MAX_SEED = 2_147_483_647


async def submit(request: web.Request) -> web.Response:
    """Store the image, hand the job to the broker, answer once it is on disk there."""
    front, name = request.app[FRONT], read_key(request)
    with open_spool(front.partial_dir) as spool:
        submission = await read_submission(request, spool)
        key = await _idempotency_key(name, submission, spool)
        # Fetching and decoding is work, so it is done only for a job that can be accepted.
        reply = await front.broker.ask(
            OfferJob(
                spec=submission.spec,
                idempotency_key=key,
                owner=owner(request),
                queue_share=queue_share(request),
            )
        )
        if isinstance(reply, JobFound):
            return answer(Submitted(requestId=reply.job.job_id), status=202)
        if submission.image_url is not None:
            await front.source.fetch(submission.image_url, spool)
        image = await front.decoder.store(spool.path)
    reply = await front.broker.ask(
        SubmitJob(
            job_id=secrets.token_hex(16),
            spec=_with_seed(submission.spec),
            image=image,
            idempotency_key=key,
            owner=owner(request),
            queue_share=queue_share(request),
        )
    )
    assert isinstance(reply, JobFound)
    return answer(Submitted(requestId=reply.job.job_id), status=202)


async def status(request: web.Request) -> web.Response:
    """Tell how a job is."""
    job_id = checked_id((await read_json(request, JobRef)).requestId)
    reply = await request.app[FRONT].broker.ask(GetJob(job_id=job_id, owner=owner(request)))
    assert isinstance(reply, JobFound)
    return answer(JobStatus.of(reply.job))


async def cancel(request: web.Request) -> web.Response:
    """End a job; whoever is answered 200 never sees it succeed."""
    job_id = checked_id((await read_json(request, JobRef)).requestId)
    reply = await request.app[FRONT].broker.ask(CancelJob(job_id=job_id, owner=owner(request)))
    assert isinstance(reply, JobFound)
    return answer(Cancelled(status=reply.job.state))


async def health(request: web.Request) -> web.Response:
    """Tell whether jobs are served, with one row per rank."""
    front = request.app[FRONT]
    try:
        reply = await front.broker.ask(GetHealth(), HEALTH_LIMIT_S)
    except FrontError:
        return answer(Health(status="unhealthy"), status=503)
    assert isinstance(reply, HealthTold)
    told = Health.of(reply)
    if front.config.api_keys is not None and caller(request) is None:
        told = Health(status=told.status)  # the rest is nothing for strangers
    return answer(told, status=200 if told.status == "healthy" else 503)


async def live(_request: web.Request) -> web.Response:
    """Tell that the front itself answers."""
    return answer(Alive())


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


def checked_id(text: str, field: str = "requestId") -> str:
    """Return the text if it can be the id of a job.

    Raises:
        FrontError: If no job can have it.
    """
    if not _JOB_ID.fullmatch(text):
        raise FrontError(ErrorCode.JOB_NOT_FOUND, "there is no such job", field)
    return text


async def _idempotency_key(
    name: str | None, submission: Submission, spool: Spool
) -> IdempotencyKey | None:
    if name is None:
        return None
    image = submission.image_url or spool.path
    return await asyncio.to_thread(identify, name, submission.spec, image)


def _with_seed(spec: JobSpec) -> JobSpec:
    """Choose the seed here, so that every attempt of the job makes the same video."""
    if spec.seed is not None:
        return spec
    return msgspec.structs.replace(spec, seed=secrets.randbelow(_MAX_SEED + 1))
