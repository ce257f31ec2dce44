from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.job import JobState, Stage
from broker.wire.replies import Refused
from http_front.live.status_cache import FRESH_S
from http_front.video.schema import EXAMPLE_IMAGE
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import PROMPT, Served, picture, serve

VIDEO = bytes(range(256)) * 64


async def test_an_uploaded_image_becomes_a_job_with_every_field_of_the_form(
    front: Served, broker: ScriptedBroker
) -> None:
    status, answer = await front.upload(
        picture(), num_frames="24", guidance_scale="1", dit_fsdp="true", seed="7"
    )
    assert status == 202
    spec = broker.specs[answer["requestId"]]
    assert (spec.prompt, spec.num_frames, spec.seed) == (PROMPT, 24, 7)
    assert spec.guidance_scale == 1.0
    assert spec.dit_fsdp is True


async def test_a_stored_image_is_named_by_the_hash_of_its_content(
    front: Served, broker: ScriptedBroker
) -> None:
    first, second = await front.submit(), await front.submit()
    assert broker.images[first] == broker.images[second]
    assert [path.name for path in front.stored_images()] == [broker.images[first]]


async def test_a_missing_seed_is_chosen_before_the_job_is_stored(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    assert broker.specs[job_id].seed is not None


async def test_status_has_the_documented_shape(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    await broker.change(
        job_id,
        state=JobState.IN_PROGRESS,
        stage=Stage.DENOISE,
        step=3,
        num_steps=30,
        progress=0.1,
        eta_s=20.0,
        attempt=1,
        stage_s={"queue": 1.5, "encode": 0.5},
        queue_position=None,
    )
    status, answer = await front.post("/video/status", {"requestId": job_id})
    view = broker.history[job_id][-1]
    assert status == 200
    assert answer == {
        "status": "InProgress",
        "reason": None,
        "results": None,
        "warning": None,
        "queue_position": None,
        "progress": 0.1,
        "created_at": view.created_at,
        "updated_at": view.updated_at,
        "stage": "denoise",
        "step": 3,
        "num_steps": 30,
        "eta_s": pytest.approx(20.0, abs=FRESH_S),
        "error_code": None,
        "attempt": 1,
        "skipped_steps": [],
        "stage_s": {"queue": 1.5, "encode": 0.5},
        "priority": 0,
        "model": "Wan2.1-I2V-14B-720P",
        "model_hash": None,
        "lora_hashes": {},
        "notice": None,
        "expires_at": None,
        "kept": False,
    }


async def test_a_finished_job_names_its_video(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    await broker.change(job_id, state=JobState.SUCCEED, progress=1.0, video=f"{job_id}.mp4")
    _, answer = await front.post("/video/status", {"requestId": job_id})
    assert answer["results"] == {
        "video_url": f"/videos/{job_id}.mp4",
        "video_path": f"videos/{job_id}.mp4",
        "poster_url": f"/videos/{job_id}.webp",
        "sprites_url": f"/videos/{job_id}.sprites.webp",
    }
    assert answer["warning"] is None


async def test_a_video_that_looks_wrong_has_a_warning(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    warning = ResultWarning.SINGLE_COLOUR
    video = f"{job_id}.mp4"
    await broker.change(job_id, state=JobState.SUCCEED, progress=1.0, video=video, warning=warning)
    _, answer = await front.post("/video/status", {"requestId": job_id})
    assert (answer["status"], answer["warning"]) == ("Succeed", "single_colour")


async def test_a_prompt_that_the_model_cannot_read_whole_has_a_notice(
    front: Served, broker: ScriptedBroker
) -> None:
    body = {"prompt": "boat " * 900, "reference_url": EXAMPLE_IMAGE}
    status, video = await front.post("/v1/videos", body)
    assert (status, video["notice"]) == (200, None)
    await broker.change(video["id"], prompt_tokens=512)
    assert (await front.get(f"/v1/videos/{video['id']}"))[1]["notice"] is None
    await broker.change(video["id"], prompt_tokens=902)
    _, video = await front.get(f"/v1/videos/{video['id']}")
    assert video["notice"].startswith("the prompt has 902 tokens; Wan2.1-I2V-14B-720P reads the")
    _, found = await front.post("/video/status", {"requestId": video["id"]})
    assert found["notice"] == video["notice"]


async def test_the_operator_decides_how_long_prompts_may_be(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    async with serve(tmp_path, broker.addresses, min_prompt_chars=2, max_prompt_chars=4) as front:
        for prompt, expected in (("杯", 422), ("杯子", 202)):
            assert (await front.upload(picture(), prompt=prompt))[0] == expected
        status, answer = await front.upload(picture(), prompt="a cup")
        assert status == 422
        assert "a string of 2 to 4 characters" in answer["error"]["message"]
        _, document = await front.get("/openapi.json")
        prompt = document["components"]["schemas"]["SubmitByUrl"]["properties"]["prompt"]
        assert (prompt["minLength"], prompt["maxLength"]) == (2, 4)


@pytest.mark.parametrize(
    ("name", "filename", "message"),
    [
        (
            "image",
            None,
            'image is the text "boat.jpg", not a file; with curl, write -F image=@',
        ),
        ("image", "boat.jpg", "the image is not a JPEG, PNG, WebP, GIF or AVIF file"),
    ],
)
async def test_the_name_of_a_file_in_place_of_the_file_is_recognised(
    front: Served, name: str, filename: str | None, message: str
) -> None:
    with aiohttp.MultipartWriter("form-data") as form:
        form.append(PROMPT).set_content_disposition("form-data", name="prompt")
        names: dict[str, Any] = {"name": name} | ({"filename": filename} if filename else {})
        form.append("boat.jpg").set_content_disposition("form-data", **names)
    async with front.session.post(front.url + "/video/submit", data=form) as response:
        error = (await response.json())["error"]
    assert error["code"] == "image_invalid"
    assert error["message"].startswith(message)


@pytest.mark.parametrize("path", ["/video/status", "/video/cancel"])
@pytest.mark.parametrize("job_id", ["0" * 32, "../x", "", "F" * 32, "a" * 10_240])
async def test_a_job_that_cannot_be_found_is_404(front: Served, path: str, job_id: str) -> None:
    status, answer = await front.post(path, {"requestId": job_id})
    assert status == 404
    assert answer["error"]["code"] == "job_not_found"


async def test_cancel_is_final_and_repeatable(front: Served) -> None:
    job_id = await front.submit()
    for _ in range(2):
        assert await front.post("/video/cancel", {"requestId": job_id}) == (
            200,
            {"status": "Cancelled"},
        )


async def test_a_refusal_of_the_broker_is_passed_on_with_its_code_and_numbers(
    front: Served, broker: ScriptedBroker
) -> None:
    message = "cfg_size 2 times ulysses_size 3 is 6; it must divide the group's 8 ranks"
    broker.script = lambda _request: Refused(
        code=ErrorCode.UNSUPPORTED_LAYOUT, message=message, field="ulysses_size"
    )
    status, answer = await front.upload(picture())
    assert status == 422
    assert answer == {
        "error": {"code": "unsupported_layout", "message": message, "field": "ulysses_size"}
    }


async def test_a_full_queue_is_429_with_retry_after(front: Served, broker: ScriptedBroker) -> None:
    broker.script = lambda _request: Refused(
        code=ErrorCode.QUEUE_FULL, message="100 jobs wait", retry_after_s=33
    )
    async with front.session.post(
        front.url + "/video/cancel", json={"requestId": "0" * 32}
    ) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "33"


async def test_a_video_is_served_in_ranges(front: Served) -> None:
    name = f"{'a' * 32}.mp4"
    (front.videos / name).write_bytes(VIDEO)
    url = f"{front.url}/videos/{name}"
    async with front.session.get(url, headers={"Range": "bytes=10-19"}) as response:
        assert response.status == 206
        assert await response.read() == VIDEO[10:20]
    async with front.session.head(url) as response:
        assert response.status == 200
        assert response.content_length == len(VIDEO)
        assert response.content_type == "video/mp4"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_missing_id_is_reported(front: Served) -> None:
    status, answer = await front.post("/video/status", {})
    assert (status, answer["error"]["field"]) == (422, "requestId")
    assert answer["error"]["message"] == "requestId is missing; it must be a string"


@pytest.mark.parametrize("path", ["/live", "/nowhere", "/v1/videos"])
async def test_an_unknown_expectation_is_refused_in_the_terms_of_both_apis(
    front: Served, path: str
) -> None:
    headers = {"Expect": "banana"}
    async with front.session.get(front.url + path, headers=headers) as response:
        assert response.status == 417
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert (await response.json())["error"] == {
            "code": "invalid_body",
            "message": "the Expect header must be 100-continue",
            "field": None,
            "type": "invalid_request_error",
            "param": None,
        }


@pytest.mark.parametrize(
    "wanted", ["bytes=999999-", "bytes=9-3", "bytes=-", "bytes=-0", "bytes=one"]
)
async def test_a_range_beyond_the_end_is_refused_with_the_length(
    front: Served, wanted: str
) -> None:
    name = f"{'a' * 32}.mp4"
    (front.videos / name).write_bytes(VIDEO)
    url = f"{front.url}/videos/{name}"
    async with front.session.get(url, headers={"Range": wanted}) as response:
        assert (response.status, response.content_type) == (416, "application/json")
        assert response.headers["Content-Range"] == f"bytes */{len(VIDEO)}"
        error = (await response.json())["error"]
    assert error["message"] == "the request was refused: Requested Range Not Satisfiable"


@pytest.mark.parametrize("wanted", ["seconds=1-2", "bytes=0-1,4-5", "10-19"])
async def test_an_unsupported_range_is_ignored(front: Served, wanted: str) -> None:
    name = f"{'a' * 32}.mp4"
    (front.videos / name).write_bytes(VIDEO)
    url = f"{front.url}/videos/{name}"
    async with front.session.get(url, headers={"Range": wanted}) as response:
        assert (response.status, await response.read()) == (200, VIDEO)
    async with front.session.get(url) as response:  # the connection still works
        assert (response.status, await response.read()) == (200, VIDEO)


async def test_a_link_in_the_videos_folder_is_not_served(front: Served, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (front.videos / f"{'b' * 32}.mp4").symlink_to(secret)
    status, answer = await front.get(f"/videos/{'b' * 32}.mp4")
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_a_browser_may_play_a_video_in_its_own_tab(front: Served) -> None:
    name = f"{'c' * 32}.mp4"
    (front.videos / name).write_bytes(VIDEO)
    async with front.session.get(f"{front.url}/videos/{name}") as response:
        policy = response.headers["Content-Security-Policy"]
    assert "media-src 'self'" in policy
    assert "sandbox" not in policy  # a sandboxed page has no origin and cannot load the video
