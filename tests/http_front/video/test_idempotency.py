"""The same request twice makes one job: a front and a broker on their real sockets."""

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from broker.wire.protocol import GetHealth, HealthFound
from tests.broker.driver import BrokerProcess, Front, broker_config, running_broker
from tests.http_front.serving import PROMPT, Served, picture, serve

NUM_KEYS = 20
NUM_SUBMITS = 200


@dataclass
class Desk:
    """Where requests are handed in; no group works on them."""

    broker: BrokerProcess
    front: Served

    async def submit(self, key: str, **changes: object) -> tuple[int, Any]:
        """Submit with the image in the URL; return status and answer."""
        url = "data:image/png;base64," + base64.b64encode(picture()).decode()
        body = {"prompt": PROMPT, "image_url": url, **changes}
        return await self._post(key, json=body)

    async def upload(self, key: str, image: bytes) -> tuple[int, Any]:
        """Submit with the image as a file."""
        form = aiohttp.FormData({"prompt": PROMPT})
        form.add_field("image", image, filename="cat.png")
        return await self._post(key, data=form)

    async def num_jobs(self) -> int:
        """Return how many jobs wait."""
        async with Front(self.broker.config) as front:
            health = await front.ask(GetHealth())
        assert isinstance(health, HealthFound)
        return health.queued

    def images(self) -> list[str]:
        """Return the names of the stored images."""
        return [path.name for path in self.front.stored_images()]

    async def _post(self, key: str, **body: Any) -> tuple[int, Any]:
        async with self.front.session.post(
            self.front.url + "/video/submit", headers={"Idempotency-Key": key}, **body
        ) as response:
            return response.status, await response.json()


@asynccontextmanager
async def open_desk(**changes: object) -> AsyncIterator[Desk]:
    # Not under tmp_path: its names are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as folder:
        config = broker_config(Path(folder), **changes)
        async with running_broker(config) as broker, serve(Path(folder), config.addresses) as front:
            yield Desk(broker, front)


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk() as opened:
        yield opened


async def test_the_same_request_under_the_same_key_is_one_job(desk: Desk) -> None:
    """Without the key's index in the table of jobs there are two."""
    first = await desk.submit("a", num_frames=81)
    # Another order of fields, a default left out: still the same request.
    assert await desk.submit("a") == first
    assert await desk.submit("a", priority=0) == first
    assert first[0] == 202
    assert await desk.num_jobs() == 1


async def test_the_same_upload_under_the_same_key_is_one_job(desk: Desk) -> None:
    first = await desk.upload("a", picture())
    assert await desk.upload("a", picture()) == first
    assert await desk.num_jobs() == 1


async def test_another_request_under_the_same_key_is_refused(desk: Desk) -> None:
    """Without the comparison of hashes it is answered with the job of the first request."""
    assert (await desk.submit("a"))[0] == 202
    for status, answer in (
        await desk.submit("a", num_frames=24),
        await desk.submit("a", seed=7),
        await desk.submit("a", priority=1),
        await desk.upload("a", picture()),
        await desk.upload("a", picture(128, 64)),
    ):
        assert status == 422
        assert answer["error"]["code"] == "idempotency_key_reuse"
    assert await desk.num_jobs() == 1
    assert len(desk.images()) == 1


async def test_different_keys_and_none_make_different_jobs(desk: Desk) -> None:
    answers = [await desk.submit(key) for key in ("a", "b", "A")]
    answers.append((202, {"requestId": await desk.front.submit()}))
    assert len({answer["requestId"] for _, answer in answers}) == 4


async def test_a_key_holds_over_a_kill_of_the_broker(desk: Desk) -> None:
    """Without the two columns in the journal the request makes a second job."""
    first = await desk.submit("a")
    await desk.broker.kill()
    await desk.broker.start()
    assert await desk.submit("a") == first
    assert (await desk.submit("a", num_frames=24))[0] == 422


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "käse", "a\tb"])
async def test_a_key_that_cannot_be_used_is_refused(desk: Desk, key: str) -> None:
    status, answer = await desk.submit(key)
    assert status == 422
    assert answer["error"]["field"] == "Idempotency-Key"
    assert desk.images() == []


async def test_the_longest_key_is_good(desk: Desk) -> None:
    assert (await desk.submit("~" * 255))[0] == 202


async def test_many_equal_submits_at_once_make_one_job_a_key(desk: Desk) -> None:
    """Without `AnswerAfter` for a key that is on its way to the disk there are more jobs."""
    for key in range(NUM_KEYS):
        submits = (desk.submit(f"key-{key}") for _ in range(NUM_SUBMITS))
        answers = await asyncio.gather(*submits)
        assert {status for status, _ in answers} == {202}
        assert len({answer["requestId"] for _, answer in answers}) == 1
    assert await desk.num_jobs() == NUM_KEYS


async def test_a_full_queue_refuses_before_it_looks_at_the_image() -> None:
    """Without `OfferJob` the image is fetched and decoded for nothing, here in vain."""
    async with open_desk(max_queue=1) as desk:
        await desk.submit("a")
        status, answer = await desk.upload("b", b"this is no picture")
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert len(desk.images()) == 1


async def test_a_submit_that_is_refused_after_all_leaves_no_image() -> None:
    """Without `DropInput` the images of the refused stay until the next start of the broker."""
    async with open_desk(max_queue=2) as desk:
        pictures = [picture(64 + 16 * number, 64) for number in range(16)]
        submits = (desk.upload(f"key-{n}", image) for n, image in enumerate(pictures))
        answers = await asyncio.gather(*submits)
        assert sorted({status for status, _ in answers}) == [202, 429]
        # An answer comes before the removal, but the next answer after it.
        assert (await desk.upload("late", b"this is no picture"))[0] == 429
        assert len(desk.images()) == 2


async def test_a_repeat_is_answered_while_the_queue_is_full() -> None:
    async with open_desk(max_queue=1) as desk:
        first = await desk.submit("a")
        assert (await desk.submit("b"))[0] == 429
        assert await desk.submit("a") == first
