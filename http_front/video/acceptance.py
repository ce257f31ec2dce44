"""Accept a submitted job: check it, store its images and hand it to the broker."""

import secrets
from collections.abc import Sequence

import msgspec
from aiohttp import web

from broker.process.log import current_job
from broker.wire.errors import ErrorCode
from broker.wire.job import JobSpec, SpecError
from broker.wire.replies import JobFound
from broker.wire.requests import IdempotencyKey, OfferJob, SubmitJob
from broker.wire.spec_check import check_last_image
from http_front.access.key_guard import may_administer, owner, party, queue_share
from http_front.errors import FrontError
from http_front.images.data_url import decode_data_url, is_data_url
from http_front.images.decode import StoredImage
from http_front.images.guarded_http import UrlError
from http_front.state import FRONT, Front
from http_front.video.idempotency import identify, read_key
from http_front.video.submission import Picture, Submission

_MAX_SEED = 2_147_483_647


async def accept(request: web.Request, submission: Submission) -> str:
    """Store the images, submit the job to the broker, and return the job's id.

    On return the broker has written the job to disk.

    Args:
        request: For its API key and its Idempotency-Key header.
        submission: The job that the client wants.

    Raises:
        FrontError: If the job cannot be accepted.
    """
    front = request.app[FRONT]
    _check_priority(request, submission.priority)
    _check_callback(front, submission.callback_url)
    _check_last_image(submission)
    key = _idempotency_key(read_key(request), submission)
    for picture in submission.pictures:
        if picture.url is not None and is_data_url(picture.url):
            decode_data_url(picture.url, f"{picture.spool.field}_url", picture.spool)
    images = _known_images(request, submission)
    if images is not None:
        try:
            return await _submit(request, submission, key, images)
        except FrontError as error:
            if error.code is not ErrorCode.IMAGE_REMOVED:
                raise
            # The last job with an image was removed in the meantime, and the image with it.
    return await _accept_new(request, submission, key)


async def _accept_new(
    request: web.Request, submission: Submission, key: IdempotencyKey | None
) -> str:
    """Accept a job whose images are not stored yet."""
    # Fetching and decoding cost time, so first ask whether the broker would accept the job.
    reply = await request.app[FRONT].broker.ask(
        OfferJob(
            spec=_with_model(submission),
            idempotency_key=key,
            owner=owner(request),
            queue_share=queue_share(request),
        )
    )
    if isinstance(reply, JobFound):
        return reply.job.job_id
    images = [await _store(request, picture) for picture in submission.pictures]
    return await _submit(request, submission, key, images)


def _known_images(request: web.Request, submission: Submission) -> list[StoredImage] | None:
    """Return the stored images; None unless all are known to be stored."""
    known = request.app[FRONT].images
    images = [
        known.find(owner(request), picture.spool.digest) if picture.spool.num_bytes else None
        for picture in submission.pictures
    ]
    found = [image for image in images if image is not None]
    return found if len(found) == len(images) else None


async def _store(request: web.Request, picture: Picture) -> StoredImage:
    """Fetch an image unless it has arrived, and store it."""
    front, spool = request.app[FRONT], picture.spool
    if picture.url is not None and not spool.num_bytes:
        await front.source.fetch(
            picture.url, spool, party(request), tells_private=may_administer(request)
        )
    image = await front.decoder.store(spool.path, party(request), spool.field)
    front.images.keep(owner(request), spool.digest, image)
    return image


async def _submit(
    request: web.Request,
    submission: Submission,
    key: IdempotencyKey | None,
    images: Sequence[StoredImage],
) -> str:
    current_job.set(job_id := secrets.token_hex(16))
    reply = await request.app[FRONT].broker.ask(
        SubmitJob(
            job_id=job_id,
            spec=_settled_spec(submission, images[0]),
            image=images[0].name,
            last_image=images[1].name if len(images) > 1 else None,
            idempotency_key=key,
            owner=owner(request),
            queue_share=queue_share(request),
            callback_url=submission.callback_url,
            priority=submission.priority,
        )
    )
    return reply.job.job_id


def _idempotency_key(name: str | None, submission: Submission) -> IdempotencyKey | None:
    if name is None:
        return None
    images = [picture.url or picture.spool.digest.hex() for picture in submission.pictures]
    return identify(
        name,
        submission.spec,
        images,
        submission.callback_url,
        submission.priority,
        area=submission.area,
        model=submission.model,
    )


def _check_last_image(submission: Submission) -> None:
    try:
        check_last_image(submission.last_image is not None, submission.model.profile)
    except SpecError as error:
        raise FrontError(ErrorCode.INVALID_FIELD, error.message, error.field) from error


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


def _with_model(submission: Submission) -> JobSpec:
    return msgspec.structs.replace(submission.spec, model=submission.model.name)


def _settled_spec(submission: Submission, image: StoredImage) -> JobSpec:
    """Return the job's parameters with all that the client left to the server."""
    changes: dict[str, object] = {"model": submission.model.name}
    if submission.area is not None:
        changes["image_size"] = submission.area.size_of(image.width_px, image.height_px)
    if submission.spec.seed is None:
        # Chosen now, so that every attempt of the job makes the same video.
        changes["seed"] = secrets.randbelow(_MAX_SEED + 1)
    return msgspec.structs.replace(submission.spec, **changes)
