"""Routes to list, to keep and to delete jobs."""

from collections.abc import Mapping

from aiohttp import web

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import JobsListed
from broker.wire.requests import DeleteJob, KeepJob, ListJobs
from http_front.access.key_guard import owner
from http_front.errors import FrontError
from http_front.job_ids import checked_job_id, use_job_id
from http_front.responses import json_response
from http_front.state import FRONT
from http_front.video.job_status import JobEntry, JobList
from http_front.video.schema import MAX_LISTED, Deleted, JobRef, KeepVideo, Kept
from http_front.video.submission import read_json

DEFAULT_LIMIT = 20


MAX_SEARCH_CHARS = 200

STATES = {state.value: (state,) for state in JobState}
"""What the query `status` selects, by its values."""


async def list_jobs(request: web.Request) -> web.Response:
    page = await read_page(request, STATES)
    models = request.app[FRONT].models
    jobs = [JobEntry.of(job, await models.profile_of(job.spec)) for job in page.jobs]
    return json_response(JobList(jobs=jobs, has_more=page.has_more))


async def keep(request: web.Request) -> web.Response:
    """Keep a video whatever its age, or let it expire again."""
    body = await read_json(request, KeepVideo)
    job_id = use_job_id(body.requestId)
    asked = KeepJob(job_id=job_id, keep=body.keep, owner=owner(request))
    found = await request.app[FRONT].broker.ask(asked)
    return json_response(Kept(kept=found.job.kept, expires_at=found.job.expires_at))


async def delete(request: web.Request) -> web.Response:
    """Delete a job and its files. A job that has not ended is cancelled first."""
    job_id = use_job_id((await read_json(request, JobRef)).requestId)
    await remove(request, job_id)
    return json_response(Deleted())


async def remove(request: web.Request, job_id: str) -> None:
    front = request.app[FRONT]
    await front.broker.ask(DeleteJob(job_id=job_id, owner=owner(request)))
    front.statuses.forget(job_id)


async def read_page(request: web.Request, states: Mapping[str, tuple[JobState, ...]]) -> JobsListed:
    """Ask the broker for the page of jobs that the query selects.

    Args:
        request: Its query may have `after`, `kept`, `limit`, `order`, `search` and `status`.
        states: What each status selects.

    Raises:
        FrontError: If the query is not valid.
    """
    query = request.query
    after, order = query.get("after"), query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise FrontError(ErrorCode.INVALID_FIELD, "order must be asc or desc", "order")
    page = await request.app[FRONT].broker.ask(
        ListJobs(
            limit=_checked_limit(query.get("limit", str(DEFAULT_LIMIT))),
            after=None if after is None else checked_job_id(after, "after"),
            oldest_first=order == "asc",
            states=_checked_states(query.get("status"), states),
            words=_checked_words(query.get("search", "")),
            kept=_checked_flag(query.get("kept", "false")),
            owner=owner(request),
        )
    )
    return page


def _checked_states(
    text: str | None, states: Mapping[str, tuple[JobState, ...]]
) -> tuple[JobState, ...]:
    if text is None:
        return ()
    by_letters = {name.lower(): selected for name, selected in states.items()}
    try:
        return tuple(state for name in text.split(",") for state in by_letters[name.lower()])
    except KeyError as error:
        message = f"status must be one or more of {', '.join(states)}, with commas between them"
        raise FrontError(ErrorCode.INVALID_FIELD, message, "status") from error


def _checked_words(text: str) -> tuple[str, ...]:
    if len(text) <= MAX_SEARCH_CHARS:
        return tuple(text.split())
    raise FrontError(
        ErrorCode.INVALID_FIELD,
        f"search has {len(text)} characters; at most {MAX_SEARCH_CHARS} are possible",
        "search",
    )


def _checked_flag(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise FrontError(ErrorCode.INVALID_FIELD, "kept must be true or false", "kept")


def _checked_limit(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_LISTED:
        return int(text)
    raise FrontError(
        ErrorCode.INVALID_FIELD, f"limit must be a whole number from 1 to {MAX_LISTED}", "limit"
    )
