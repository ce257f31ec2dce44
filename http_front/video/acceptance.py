"""Accept a submitted job: check it, store its image and hand it to the broker."""

import secrets

import msgspec
from aiohttp import web

from broker.process.log import current_job
from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec
from broker.wire.replies import JobFound
from broker.wire.requests import IdempotencyKey, OfferJob, SubmitJob
from http_front.access.key_guard import may_administer, owner, party, queue_share
from http_front.errors import FrontError
from http_front.images.fetch import is_data_url
from http_front.images.guarded_http import UrlError
from http_front.images.spool import Spool
from http_front.state import FRONT, Front
from http_front.video.idempotency import identify, read_key
from http_front.video.submission import Submission

_MAX_SEED = 2_147_483_647


async def accept(request: web.Request, submission: Submission, spool: Spool) -> str:
    """Store the image, submit the job to the broker, and return the job's id.

    On return the broker has written the job to disk.

    Args:
        request: For its API key and its Idempotency-Key header.
        submission: The job that the client wants.
        spool: Holds the image if it was uploaded; otherwise receives it from its URL.

    Raises:
        FrontError: If the job cannot be accepted.
    """
    front = request.app[FRONT]
    _check_priority(request, submission.priority)
    _check_callback(front, submission.callback_url)
    key = _idempotency_key(read_key(request), submission, spool)
    if submission.image_url is not None and is_data_url(submission.image_url):
        await front.source.fetch(submission.image_url, spool, party(request))
    image = front.images.find(owner(request), spool.digest) if spool.num_bytes else None
    if image is not None:
        try:
            return await _submit(request, submission, key, image)
        except FrontError as error:
            if error.code is not ErrorCode.IMAGE_REMOVED:
                raise
            # The last job with this image was removed in the meantime, and the image with it.
    return await _accept_new(request, submission, key, spool)


async def _accept_new(
    request: web.Request, submission: Submission, key: IdempotencyKey | None, spool: Spool
) -> str:
    """Accept a job whose image is not stored yet."""
    front = request.app[FRONT]
    # Fetching and decoding cost time, so first ask whether the broker would accept the job.
    reply = await front.broker.ask(
        OfferJob(
            spec=submission.spec,
            idempotency_key=key,
            owner=owner(request),
            queue_share=queue_share(request),
        )
    )
    if isinstance(reply, JobFound):
        return reply.job.job_id
    if submission.image_url is not None and not spool.num_bytes:
        await front.source.fetch(
            submission.image_url, spool, party(request), tells_private=may_administer(request)
        )
    image = await front.decoder.store(spool.path, party(request))
    front.images.keep(owner(request), spool.digest, image)
    return await _submit(request, submission, key, image)


async def _submit(
    request: web.Request, submission: Submission, key: IdempotencyKey | None, image: str
) -> str:
    current_job.set(job_id := secrets.token_hex(16))
    reply = await request.app[FRONT].broker.ask(
        SubmitJob(
            job_id=job_id,
            spec=_with_seed(submission.spec),
            image=image,
            idempotency_key=key,
            owner=owner(request),
            queue_share=queue_share(request),
            callback_url=submission.callback_url,
            priority=submission.priority,
        )
    )
    return reply.job.job_id


def _idempotency_key(
    name: str | None, submission: Submission, spool: Spool
) -> IdempotencyKey | None:
    if name is None:
        return None
    image = submission.image_url or spool.digest.hex()
    return identify(name, submission.spec, image, submission.callback_url, submission.priority)


def _check_priority(request: web.Request, priority: int) -> None:
    """Allow only administrators to put a job ahead of other owners' jobs."""
    if priority > 0 and not may_administer(request):
        message = f"priority is {priority}; more than 0 needs an administrator's key"
        raise FrontError(ErrorCode.FORBIDDEN, message, "priority")


def _check_callback(front: Front, url: str | None) -> None:
    """Refuse a callback URL that the server could never call."""
    if url is None:
        return
    if front.callbacks is None:
        raise FrontError(ErrorCode.INVALID_FIELD, "this server makes no callbacks", "callback_url")
    try:
        front.callbacks.check(url)
    except UrlError as error:
        raise FrontError(
            ErrorCode.INVALID_FIELD, f"callback_url {error}", "callback_url"
        ) from error


def _with_seed(spec: JobSpec) -> JobSpec:
    """Choose a missing seed now, so that every attempt of the job makes the same video."""
    if spec.seed is not None:
        return spec
    return msgspec.structs.replace(spec, seed=secrets.randbelow(_MAX_SEED + 1))
