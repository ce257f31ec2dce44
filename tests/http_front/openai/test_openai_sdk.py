"""The unmodified `openai` package with a front, a broker and a group."""

import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from broker.wire.group_commands import RunJob
from broker.wire.model_profile import ModelProfile
from http_front.access.keys import ApiKey, hash_key, make_key, write_keys
from http_front.client.client import WanClient
from tests.broker.driver import broker_config, running_broker
from tests.http_front.serving import PROMPT, Served, picture, serve
from tests.stub_group import FAKE_VIDEO, StubConfig, StubGroup

# OpenAI has shut down its own Videos API; the package warns about it on each call.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FILE = ("cat.png", picture(), "image/png")
DATA_URL = f"data:image/png;base64,{b64encode(picture()).decode()}"


@dataclass
class Stack:
    group: StubGroup
    front: Served
    client: AsyncOpenAI

    async def create(self, **fields: object) -> openai.types.Video:
        settings = {"prompt": PROMPT, "size": "128x128", "input_reference": FILE} | fields
        return await self.client.videos.create(**settings)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="wan-") as state_dir:
        config = broker_config(Path(state_dir))
        stub = StubConfig(addresses=config.addresses, videos_dir=f"{state_dir}/videos", num_steps=4)
        async with (
            running_broker(config),
            StubGroup(stub) as group,
            serve(Path(state_dir), config.addresses) as front,
            AsyncOpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Stack(group, front, client)


async def test_a_video_is_made_polled_and_downloaded(stack: Stack) -> None:
    created = await stack.create(seconds="4", model="sora-2")
    assert (created.object, created.model, created.seconds) == ("video", ModelProfile().name, "4")
    assert created.status in ("queued", "in_progress")
    assert (created.size, created.prompt, created.error) == ("128x128", PROMPT, None)
    done = await stack.client.videos.poll(created.id, poll_interval_ms=50)
    assert (done.status, done.progress) == ("completed", 100)
    assert done.completed_at is not None
    assert done.expires_at == pytest.approx(done.completed_at + 3600, abs=1)
    content = await stack.client.videos.download_content(done.id)
    assert await content.aread() == FAKE_VIDEO


async def test_a_range_beyond_the_end_is_refused_with_the_length(stack: Stack) -> None:
    done = await stack.client.videos.poll((await stack.create()).id, poll_interval_ms=50)
    with pytest.raises(openai.APIStatusError, match="Range Not Satisfiable") as raised:
        await stack.client.videos.download_content(done.id, extra_headers={"Range": "bytes=9-1"})
    assert raised.value.status_code == 416
    assert raised.value.response.headers["Content-Range"] == f"bytes */{len(FAKE_VIDEO)}"


async def test_stills_are_variants(stack: Stack) -> None:
    done = await stack.client.videos.poll((await stack.create()).id, poll_interval_ms=50)
    for variant, ending in (("thumbnail", ".webp"), ("spritesheet", ".sprites.webp")):
        (stack.front.videos / f"{done.id}{ending}").write_bytes(ending.encode())
        found = await stack.client.videos.download_content(done.id, variant=variant)  # type: ignore[arg-type]
        assert await found.aread() == ending.encode()
        assert found.response.headers["Content-Type"] == "image/webp"


@pytest.mark.parametrize(
    "extra",
    [
        {"input_reference": {"image_url": DATA_URL}},
        {"reference_url": DATA_URL},
        {"image_reference": f'{{"image_url": "{DATA_URL}"}}'},
    ],
    ids=["input_reference", "reference_url", "image_reference"],
)
async def test_the_image_may_be_a_url(stack: Stack, extra: dict[str, object]) -> None:
    created = await stack.create(input_reference=openai.omit, extra_body=extra)
    assert created.status in ("queued", "in_progress")


async def test_a_large_image_may_be_a_data_url(stack: Stack) -> None:
    # Decoders ignore zeros after the picture.
    image = picture() + bytes(5_000_000)
    url = f"data:image/png;base64,{b64encode(image).decode()}"
    created = await stack.create(input_reference=openai.omit, extra_body={"reference_url": url})
    assert created.status in ("queued", "in_progress")


async def test_the_settings_of_other_servers_are_accepted(stack: Stack) -> None:
    extra = {
        "num_frames": 81,
        "num_inference_steps": 25,
        "guidance_scale": 5.0,
        "seed": 7,
        "negative_prompt": "blur",
        "flow_shift": 3.0,
        "fps": 16,
        "priority": 2,
    }
    created = await stack.create(extra_body=extra)
    assert created.to_dict()["priority"] == 2
    assert created.seconds == "5.0625"
    spec = (await stack.group.heard(RunJob)).spec
    assert (spec.num_frames, spec.infer_steps, spec.guidance_scale) == (81, 25, 5.0)
    assert (spec.seed, spec.negative_prompt, spec.sample_shift) == (7, "blur", 3.0)


async def test_pages_follow_each_other_to_the_end(stack: Stack) -> None:
    ids = [(await stack.create()).id for _ in range(5)]
    found = [video.id async for video in stack.client.videos.list(limit=2)]
    assert found == ids[::-1]
    oldest = [video.id async for video in stack.client.videos.list(limit=2, order="asc")]
    assert oldest == ids


async def test_a_cancelled_job_has_failed_with_the_code_cancelled(stack: Stack) -> None:
    stack.group.hold.clear()
    created = await stack.create()
    async with WanClient(stack.front.url) as own:
        await own.cancel(created.id)
        assert (await own.status(created.id)).status.value == "Cancelled"
    video = await stack.client.videos.poll(created.id)
    assert video.status == "failed"
    assert video.error is not None
    assert video.error.code == "cancelled"


async def test_a_failed_job_is_returned_and_not_raised(stack: Stack) -> None:
    stack.group.behaviour = "fail"
    video = await stack.client.videos.poll((await stack.create()).id, poll_interval_ms=50)
    assert video.status == "failed"
    assert video.error is not None
    assert (video.error.code, video.error.message) == ("run_failed", "the stub was set to fail")


async def test_a_deleted_video_is_not_found_any_more(stack: Stack) -> None:
    created = await stack.create()
    deleted = await stack.client.videos.delete(created.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (created.id, "video.deleted", True)
    with pytest.raises(openai.NotFoundError) as caught:
        await stack.client.videos.retrieve(created.id)
    assert caught.value.code == "job_not_found"
    assert caught.value.type == "not_found_error"


async def test_there_is_no_content_before_the_end(stack: Stack) -> None:
    stack.group.hold.clear()
    created = await stack.create()
    with pytest.raises(openai.NotFoundError, match="there is no video: the job is In"):
        await stack.client.videos.download_content(created.id)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"seconds": "8"}, "seconds", "seconds is 8; it must be from 1.5 to 7.5625"),
        ({"size": "1792x1024"}, "size", "size is 1792x1024"),
        ({"prompt": ""}, "prompt", "prompt is"),
        ({"prompt": "x" * 5001}, "prompt", "a string of 1 to 5000 characters"),
        ({"extra_body": {"fps": 24}}, "fps", "fps is"),
        ({"extra_body": {"num_inference_steps": 5}}, "num_inference_steps", "from 20 to 100"),
        ({"extra_body": {"lorras": "x"}}, "lorras", "did you mean loras"),
        ({"input_reference": openai.omit}, "input_reference", "give one image"),
        ({"extra_body": {"reference_url": "http://x"}}, "input_reference", "give one image"),
    ],
)
async def test_an_error_uses_the_clients_name_of_the_field(
    stack: Stack, fields: dict[str, object], param: str, words: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=words) as caught:
        await stack.create(**fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


async def test_two_images_are_refused(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError, match="the form has two images"):
        await stack.create(extra_body={"reference_url": DATA_URL})


async def test_the_same_idempotency_key_makes_one_video(stack: Stack) -> None:
    headers = {"Idempotency-Key": "mine"}
    videos = [await stack.create(extra_headers=headers) for _ in range(2)]
    assert videos[0].id == videos[1].id


async def test_json_is_accepted_and_the_response_suggests_a_polling_interval(
    stack: Stack,
) -> None:
    body = {
        "prompt": PROMPT,
        "size": "128x128",
        "seconds": 4,
        "input_reference": {"image_url": DATA_URL},
    }
    url = f"{stack.front.url}/v1/videos"
    async with stack.front.session.post(url, json=body) as response:
        assert response.status == 200
        assert response.headers["openai-poll-after-ms"] == "2000"
        assert (await response.json())["seconds"] == "4"


async def test_a_huge_number_of_seconds_is_refused(stack: Stack) -> None:
    body = {"prompt": PROMPT, "seconds": 1e308, "reference_url": DATA_URL}
    async with stack.front.session.post(f"{stack.front.url}/v1/videos", json=body) as response:
        assert response.status == 422
        assert "a number from 0 to 999" in (await response.json())["error"]["message"]


async def test_an_api_key_is_the_bearer_and_sees_its_own_videos_only(tmp_path: Path) -> None:
    keys, ann, bob = tmp_path / "keys", make_key(), make_key()
    write_keys(keys, [ApiKey(name=n, sha256=hash_key(k)) for n, k in (("ann", ann), ("bob", bob))])
    with tempfile.TemporaryDirectory(prefix="wan-") as state_dir:
        config = broker_config(Path(state_dir))
        async with (
            running_broker(config),
            serve(Path(state_dir), config.addresses, api_keys=str(keys)) as front,
            AsyncOpenAI(base_url=f"{front.url}/v1", api_key=ann, max_retries=0) as client,
        ):
            created = await client.videos.create(prompt=PROMPT, input_reference=FILE)
            other = client.with_options(api_key=bob)
            assert [video.id async for video in other.videos.list()] == []
            with pytest.raises(openai.NotFoundError):
                await other.videos.delete(created.id)
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.with_options(api_key="guessed").videos.retrieve(created.id)
            assert caught.value.type == "authentication_error"
            assert (await client.videos.retrieve(created.id)).status == "queued"
