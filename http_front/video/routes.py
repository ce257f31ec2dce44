"""Handlers of the job routes."""

from aiohttp import web

from broker.wire.errors import ErrorCode
from broker.wire.requests import CancelJob, GetJob
from http_front.access.key_guard import owner
from http_front.errors import FrontError
from http_front.images.spool import open_spools
from http_front.job_ids import use_job_id
from http_front.responses import json_response
from http_front.state import FRONT
from http_front.video.acceptance import accept
from http_front.video.job_status import JobStatus
from http_front.video.schema import Cancelled, JobRef, Submitted, WebhookSecret
from http_front.video.submission import read_json, read_submission


async def submit(request: web.Request) -> web.Response:
    with open_spools(request.app[FRONT].partial_dir) as spools:
        submission = await read_submission(request, spools)
        job_id = await accept(request, submission)
    return json_response(Submitted(requestId=job_id, notice=submission.notice), status=202)


async def status(request: web.Request) -> web.Response:
    job_id = use_job_id((await read_json(request, JobRef)).requestId)
    front = request.app[FRONT]
    job = front.statuses.find(job_id, owner(request))
    if job is None or job.spec is None:
        reply = await front.broker.ask(GetJob(job_id=job_id, owner=owner(request)))
        job = reply.job
        front.statuses.update(job)
    return json_response(JobStatus.of(job, await front.models.profile_of(job.spec)))


async def cancel(request: web.Request) -> web.Response:
    """Cancel a job. After a response of 200 the job never succeeds."""
    job_id = use_job_id((await read_json(request, JobRef)).requestId)
    front = request.app[FRONT]
    reply = await front.broker.ask(CancelJob(job_id=job_id, owner=owner(request)))
    front.statuses.update(reply.job)
    return json_response(Cancelled(status=reply.job.state))


async def webhook_secret(request: web.Request) -> web.Response:
    callbacks = request.app[FRONT].callbacks
    if callbacks is None:
        raise FrontError(ErrorCode.NOT_FOUND, "this server makes no callbacks")
    return json_response(WebhookSecret(secret=await callbacks.secret(owner(request))))
