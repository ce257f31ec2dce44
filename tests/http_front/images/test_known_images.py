"""A repeated image is decoded only once, as long as it is stored."""

import asyncio
from pathlib import Path

import pytest

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import FrontReply, Refused
from broker.wire.requests import FrontRequest, ListModels, OfferJob, SubmitJob
from http_front.images import known_images
from http_front.images.decode import StoredImage
from http_front.images.known_images import KnownImages
from http_front.images.spool import open_spool
from tests.http_front.full_stack import open_stack
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, picture

NAME = StoredImage(f"{7:064x}.ppm", 96, 64)


def asked_about_jobs(broker: ScriptedBroker) -> list[type]:
    return [type(request) for request in broker.asked if not isinstance(request, ListModels)]


async def test_a_stored_image_is_not_decoded_again(front: Served, broker: ScriptedBroker) -> None:
    first, second = await front.submit(), await front.submit()
    assert broker.images[first] == broker.images[second]
    assert asked_about_jobs(broker) == [OfferJob, SubmitJob, SubmitJob]


async def test_a_removed_image_is_decoded_again(tmp_path: Path) -> None:
    async with open_stack(tmp_path) as stack:
        await stack.submit()
        (stored,) = stack.front.stored_images()
        await asyncio.to_thread(stored.unlink)
        job_id = await stack.submit()
        assert stack.front.stored_images() == [stored]
        assert (await stack.end_of(job_id)).status is JobState.SUCCEED


async def test_an_image_removed_during_the_submit_is_decoded_again(
    front: Served, broker: ScriptedBroker
) -> None:
    await front.submit()
    (stored,) = front.stored_images()

    def refuse_once(request: FrontRequest) -> FrontReply | None:
        if not isinstance(request, SubmitJob) or not stored.exists() or second_try:
            return None
        stored.unlink()
        second_try.append(request)
        return Refused(code=ErrorCode.IMAGE_REMOVED, message="it has been removed", field="image")

    second_try: list[FrontRequest] = []
    broker.script = refuse_once
    assert await front.submit() in broker.history
    assert front.stored_images() == [stored]


async def test_another_refusal_of_a_known_image_is_passed_on(
    front: Served, broker: ScriptedBroker
) -> None:
    await front.submit()
    (stored,) = front.stored_images()
    await asyncio.to_thread(stored.unlink)
    away = Refused(code=ErrorCode.UNAVAILABLE, message="the server is about to stop")
    broker.script = lambda request: away if isinstance(request, SubmitJob) else None
    status, answer = await front.upload(picture())
    assert (status, answer["error"]["message"]) == (503, away.message)
    assert asked_about_jobs(broker) == [OfferJob, SubmitJob, SubmitJob]


def test_owners_share_no_images() -> None:
    """Otherwise a fast submit would reveal that another owner has submitted the image."""
    images = KnownImages()
    images.keep("ann", b"digest", NAME)
    assert images.find("ann", b"digest") == NAME
    assert images.find("bob", b"digest") is None
    assert images.find(None, b"digest") is None


def test_the_least_recently_used_image_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_images, "MAX_KNOWN", 2)
    images = KnownImages()
    for digest in (b"1", b"2"):
        images.keep(None, digest, NAME)
    images.find(None, b"1")
    images.keep(None, b"3", NAME)
    found = [images.find(None, digest) for digest in (b"1", b"2", b"3")]
    assert found == [NAME, None, NAME]


@pytest.mark.parametrize("num_bytes", [0, 1, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_a_spool_has_the_same_content_in_memory_and_on_disk(tmp_path: Path, num_bytes: int) -> None:
    content = bytes(range(256)) * (num_bytes // 256) + b"x" * (num_bytes % 256)
    with open_spool(tmp_path) as spool:
        for start in range(0, num_bytes, 10_000):
            spool.write(content[start : start + 10_000])
        assert bool(list(tmp_path.iterdir())) is (num_bytes > 1 << 16)
        assert spool.path.read_bytes() == content
        spool.write(b"more")
        assert spool.path.read_bytes() == content + b"more"
    assert list(tmp_path.iterdir()) == []
