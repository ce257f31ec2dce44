"""`POST /v1/videos/sync`: submits a job, waits for its end, and answers with the video."""

import asyncio
from contextlib import aclosing, suppress

from aiohttp import web

from broker.store.store import VIDEO
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.job_view import JobView
from broker.wire.requests import CancelJob
from http_front.access.key_guard import owner
from http_front.errors import FrontError
from http_front.files.file_routes import send_file
from http_front.images.spool import open_spools
from http_front.openai.openai_request import read_create
from http_front.refusals import refusal
from http_front.state import FRONT
from http_front.video.acceptance import accept

WAIT_LIMIT_S = 1800.0
ID_HEADER = "Video-Id"
_CHECK_EVERY_S = 0.5


async def create_and_wait(request: web.Request) -> web.StreamResponse:
    """Answer with the MP4. The job is cancelled when the client goes, and at the time limit."""
    with open_spools(request.app[FRONT].partial_dir) as spools:
        job_id = await accept(request, await read_create(request, spools))
    try:
        _check_end(await _end_of(request, job_id))
        response = await send_file(request, job_id, VIDEO)
    except FrontError as error:
        response = refusal(error)
        # A retry of the openai package would make another job.
        response.headers["x-should-retry"] = "false"
    response.headers[ID_HEADER] = job_id
    return response


def _check_end(job: JobView) -> None:
    if job.state is JobState.CANCELLED:
        raise FrontError(ErrorCode.JOB_FINISHED, "the job was cancelled")
    if job.state is not JobState.SUCCEED:
        raise FrontError(job.error_code or ErrorCode.INTERNAL, job.reason or "the job failed")


async def _end_of(request: web.Request, job_id: str) -> JobView:
    """Return the job when it has ended.

    Raises:
        FrontError: If it is not found any more, or has not ended at the limit.
        ConnectionResetError: If the client has gone.
    """
    ending = asyncio.create_task(_last_change(request, job_id))
    leaving = asyncio.create_task(_client_left(request))
    try:
        await asyncio.wait(
            {ending, leaving}, timeout=WAIT_LIMIT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if ending.done():
            return ending.result()
        with suppress(FrontError):  # it has just ended, or it goes on without a waiting client
            await request.app[FRONT].broker.ask(CancelJob(job_id=job_id, owner=owner(request)))
        if leaving.done():
            raise ConnectionResetError("the client has gone")
        message = f"the job did not end within {WAIT_LIMIT_S:g} s and was cancelled"
        raise FrontError(ErrorCode.WAIT_TIMEOUT, message)
    finally:
        for task in (ending, leaving):
            task.cancel()
        await asyncio.wait({ending, leaving})


async def _last_change(request: web.Request, job_id: str) -> JobView:
    """Return the job when it has ended, also if the broker restarts in the meantime."""
    feed = request.app[FRONT].feed
    while True:
        try:
            async with aclosing(feed.watch(job_id, 0, owner(request))) as changes:
                async for job in changes:
                    if job.state.is_terminal:
                        return job
        except FrontError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
        await asyncio.sleep(_CHECK_EVERY_S)


async def _client_left(request: web.Request) -> None:
    # aiohttp tells a handler nothing of a connection that was closed.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(_CHECK_EVERY_S)
