"""`POST /v1/videos/sync`: one request, answered with the video."""

import asyncio
from io import BytesIO

import aiohttp
import pytest

from broker.wire.group_commands import RunJob
from broker.wire.job import JobState
from http_front.openai import sync_route
from http_front.video.schema import EXAMPLE_IMAGE
from tests.http_front.full_stack import LIMIT_S, Stack
from tests.http_front.serving import PROMPT, picture
from tests.stub_group import FAKE_VIDEO

BODY = {"prompt": PROMPT, "reference_url": EXAMPLE_IMAGE}


async def test_the_answer_is_the_video(stack: Stack) -> None:
    form = aiohttp.FormData({"prompt": PROMPT, "width": "128", "height": "128"})
    form.add_field("input_reference", BytesIO(picture()), filename="cat.png")
    url = f"{stack.front.url}/v1/videos/sync"
    async with stack.front.session.post(url, data=form) as response:
        assert (response.status, response.content_type) == (200, "video/mp4")
        assert await response.read() == FAKE_VIDEO
        job_id = response.headers["Video-Id"]
    assert (await stack.client.status(job_id)).status is JobState.SUCCEED


async def test_a_client_that_goes_cancels_its_job(stack: Stack) -> None:
    stack.group.hold.clear()
    url = f"{stack.front.url}/v1/videos/sync"
    async with aiohttp.ClientSession() as session:
        waiting = asyncio.create_task(session.post(url, json=BODY))
        job_id = (await stack.group.heard(RunJob)).lease.job_id
        waiting.cancel()
        await asyncio.wait({waiting})
    assert (await stack.end_of(job_id)).status is JobState.CANCELLED


async def test_a_failed_job_is_an_error_that_is_not_to_be_retried(stack: Stack) -> None:
    stack.group.behaviour = "fail"
    url = f"{stack.front.url}/v1/videos/sync"
    async with stack.front.session.post(url, json=BODY) as response:
        assert (response.status, response.headers["x-should-retry"]) == (500, "false")
        error = (await response.json())["error"]
    assert (error["code"], error["message"]) == ("run_failed", "the stub was set to fail")


async def test_a_job_cancelled_by_another_request_is_an_error(stack: Stack) -> None:
    stack.group.hold.clear()
    waiting = asyncio.create_task(stack.front.post("/v1/videos/sync", BODY))
    await stack.client.cancel((await stack.group.heard(RunJob)).lease.job_id)
    async with asyncio.timeout(LIMIT_S):
        status, answer = await waiting
    assert (status, answer["error"]["message"]) == (409, "the job was cancelled")


async def test_a_job_that_takes_too_long_is_cancelled(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_route, "WAIT_LIMIT_S", 0.5)
    stack.group.hold.clear()
    url = f"{stack.front.url}/v1/videos/sync"
    async with stack.front.session.post(url, json=BODY) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (504, "wait_timeout")
        job_id = response.headers["Video-Id"]
    assert (await stack.client.status(job_id)).status is JobState.CANCELLED


async def test_what_is_refused_before_a_job_exists_is_refused_as_ever(stack: Stack) -> None:
    status, answer = await stack.front.post("/v1/videos/sync", {**BODY, "num_frames": 1})
    assert (status, answer["error"]["param"]) == (422, "num_frames")
