"""The same request twice makes one job: a front and a broker on real sockets."""

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
from msgspec import structs

from broker.wire.job import JobSpec
from broker.wire.lora import LoraChoice
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import HealthFound
from broker.wire.requests import GetHealth
from http_front.models.known_models import ChosenModel
from http_front.video.idempotency import identify
from tests.broker.driver import BrokerProcess, Front, broker_config, running_broker
from tests.http_front.models.profiles import WITH_LORAS
from tests.http_front.serving import PROMPT, Served, picture, serve

NUM_KEYS = 20
NUM_SUBMITS = 200


@dataclass
class Desk:
    """A front and a broker without groups."""

    broker: BrokerProcess
    front: Served

    async def submit(self, key: str, **changes: object) -> tuple[int, Any]:
        """Submit with the image as a data URL; return the status and the body."""
        url = "data:image/png;base64," + base64.b64encode(picture()).decode()
        body = {"prompt": PROMPT, "image_url": url, **changes}
        return await self._post(key, json=body)

    async def upload(self, key: str, image: bytes) -> tuple[int, Any]:
        """Submit with the image as a file."""
        form = aiohttp.FormData({"prompt": PROMPT})
        form.add_field("image", image, filename="cat.png")
        return await self._post(key, data=form)

    async def num_jobs(self) -> int:
        async with Front(self.broker.config) as front:
            health = await front.ask(GetHealth())
        assert isinstance(health, HealthFound)
        return health.queued

    def images(self) -> list[str]:
        return [path.name for path in self.front.stored_images()]

    async def _post(self, key: str, **body: Any) -> tuple[int, Any]:
        async with self.front.session.post(
            self.front.url + "/video/submit", headers={"Idempotency-Key": key}, **body
        ) as response:
            return response.status, await response.json()


@asynccontextmanager
async def open_desk(**changes: object) -> AsyncIterator[Desk]:
    # Not in tmp_path, whose path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as folder:
        config = broker_config(Path(folder), **changes)
        async with running_broker(config) as broker, serve(Path(folder), config.addresses) as front:
            yield Desk(broker, front)


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk() as opened:
        yield opened


async def test_the_same_request_under_the_same_key_is_one_job(desk: Desk) -> None:
    first = await desk.submit("a", num_frames=81)
    # The request is the same with another order of fields or without a default value.
    assert await desk.submit("a") == first
    assert await desk.submit("a", priority=0) == first
    assert first[0] == 202
    assert await desk.num_jobs() == 1


async def test_the_same_upload_under_the_same_key_is_one_job(desk: Desk) -> None:
    first = await desk.upload("a", picture())
    assert await desk.upload("a", picture()) == first
    assert await desk.num_jobs() == 1


async def test_another_request_under_the_same_key_is_refused(desk: Desk) -> None:
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


async def test_a_key_survives_a_kill_of_the_broker(desk: Desk) -> None:
    first = await desk.submit("a")
    await desk.broker.kill()
    await desk.broker.start()
    assert await desk.submit("a") == first
    assert (await desk.submit("a", num_frames=24))[0] == 422


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "käse", "a\tb"])
async def test_an_invalid_key_is_refused(desk: Desk, key: str) -> None:
    status, answer = await desk.submit(key)
    assert status == 422
    assert answer["error"]["field"] == "Idempotency-Key"
    assert desk.images() == []


async def test_the_longest_key_is_accepted(desk: Desk) -> None:
    assert (await desk.submit("~" * 255))[0] == 202


async def test_concurrent_equal_submits_make_one_job_per_key(desk: Desk) -> None:
    for key in range(NUM_KEYS):
        submits = (desk.submit(f"key-{key}") for _ in range(NUM_SUBMITS))
        answers = await asyncio.gather(*submits)
        assert {status for status, _ in answers} == {202}
        assert len({answer["requestId"] for _, answer in answers}) == 1
    assert await desk.num_jobs() == NUM_KEYS


async def test_a_full_queue_refuses_before_it_looks_at_the_image() -> None:
    """The image below is not valid, so decoding it first would give another error."""
    async with open_desk(max_queue=1) as desk:
        await desk.submit("a")
        status, answer = await desk.upload("b", b"not a picture")
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert len(desk.images()) == 1


async def test_a_submit_refused_after_its_image_was_stored_leaves_no_image() -> None:
    async with open_desk(max_queue=2) as desk:
        pictures = [picture(64 + 16 * number, 64) for number in range(16)]
        submits = (desk.upload(f"key-{n}", image) for n, image in enumerate(pictures))
        answers = await asyncio.gather(*submits)
        assert sorted({status for status, _ in answers}) == [202, 429]
        # The broker removes an image after its reply, but before the next reply.
        assert (await desk.upload("late", b"not a picture"))[0] == 429
        assert len(desk.images()) == 2


async def test_a_repeated_request_gets_its_job_while_the_queue_is_full() -> None:
    async with open_desk(max_queue=1) as desk:
        first = await desk.submit("a")
        assert (await desk.submit("b"))[0] == 429
        assert await desk.submit("a") == first


def test_a_request_is_another_one_once_the_file_of_its_lora_is_another() -> None:
    def hashed(spec: JobSpec, profile: ModelProfile) -> str:
        model = ChosenModel(profile, profile.name, is_default=True)
        return identify("key", spec, ["image"], model=model).request_hash

    first, *others = WITH_LORAS.loras
    changed = structs.replace(first, hashes=("f" * 64,))
    other_file = structs.replace(WITH_LORAS, loras=(changed, *others))
    plain = JobSpec(prompt=PROMPT)
    with_lora = structs.replace(plain, loras=(LoraChoice(name=first.name),))
    assert hashed(plain, WITH_LORAS) == hashed(plain, other_file) == hashed(plain, ModelProfile())
    assert hashed(with_lora, WITH_LORAS) == hashed(with_lora, WITH_LORAS)
    assert len({hashed(with_lora, WITH_LORAS), hashed(with_lora, other_file)}) == 2
    assert hashed(with_lora, WITH_LORAS) != hashed(plain, WITH_LORAS)
