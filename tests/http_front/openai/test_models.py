"""The list of models, and the model of a video, as OpenAI's clients see them."""

from pathlib import Path

import pytest
from openai import AsyncOpenAI

from broker.wire.lora import LoraChoice
from http_front.access.keys import ApiKey, hash_key, make_key, write_keys
from http_front.video.schema import EXAMPLE_IMAGE
from tests.http_front.models.profiles import SMALL, TWO_EXPERTS, WAN21, WITH_LORAS
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import PROMPT, Served, serve


async def test_the_openai_package_lists_the_models(front: Served, broker: ScriptedBroker) -> None:
    broker.models = models_found(WAN21, SMALL)
    async with AsyncOpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client:
        listed = [model async for model in client.models.list()]
        assert [(model.id, model.object) for model in listed] == [
            (WAN21.name, "model"),
            (SMALL.name, "model"),
        ]
        found = await client.models.retrieve(SMALL.name)
    extra = found.model_extra or {}
    assert (extra["frames_per_second"], extra["min_steps"], extra["last_image"]) == (24, 20, "none")
    assert (extra["ready"], extra["default"]) == (True, False)


async def test_a_model_that_is_not_served_is_not_found(front: Served) -> None:
    status, answer = await front.get("/v1/models/sora-2")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert WAN21.name in answer["error"]["message"]


async def test_any_valid_key_may_list_the_models(tmp_path: Path, broker: ScriptedBroker) -> None:
    keys, key = tmp_path / "keys", make_key()
    write_keys(keys, [ApiKey(name="ann", sha256=hash_key(key))])
    async with serve(tmp_path, broker.addresses, api_keys=str(keys)) as front:
        assert (await front.get("/v1/models"))[0] == 401
        headers = {"Authorization": f"Bearer {key}"}
        async with front.session.get(f"{front.url}/v1/models", headers=headers) as response:
            assert response.status == 200


async def create(front: Served, **fields: object) -> tuple[int, dict[str, object]]:
    body = {"prompt": PROMPT, "reference_url": EXAMPLE_IMAGE, **fields}
    return await front.post("/v1/videos", body)


async def test_a_video_has_the_size_and_the_length_of_its_model(
    front: Served, broker: ScriptedBroker
) -> None:
    broker.models = models_found(WAN21, SMALL)
    status, video = await create(front, model="wan2.2-ti2v-5b")
    assert status == 200, video
    assert (video["model"], video["size"], video["seconds"]) == (SMALL.name, "1280x704", "5.04167")
    _, video = await create(front, model=SMALL.name, seconds="2", fps=24)
    spec = broker.specs[str(video["id"])]
    assert (spec.num_frames, spec.model, video["seconds"]) == (48, SMALL.name, "2")
    _, page = await front.get("/v1/videos?order=asc&limit=1")
    assert page["data"][0]["seconds"] == "5.04167"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"seconds": "8"}, "seconds", "seconds is 8; it must be from 1 to 5.04167"),
        ({"fps": 16}, "fps", "fps is 16; it must be 24 or null"),
        ({"size": "832x400"}, "size", "multiple of 32"),
        ({"guidance_scale_2": 3}, "guidance_scale_2", "takes none"),
        ({"num_inference_steps": 500}, "num_inference_steps", "from 20 to 100"),
    ],
)
async def test_the_ranges_are_those_of_the_model(
    front: Served, broker: ScriptedBroker, fields: dict[str, object], param: str, words: str
) -> None:
    broker.models = models_found(WAN21, SMALL)
    status, answer = await front.post(
        "/v1/videos",
        {"prompt": PROMPT, "reference_url": EXAMPLE_IMAGE, "model": SMALL.name, **fields},
    )
    assert (status, answer["error"]["param"]) == (422, param)
    assert words in answer["error"]["message"]


@pytest.mark.parametrize(
    "name",
    ["sora-2", "Sora-2-pro", "openai/sora-2", "wan2.1-i2v-14b-720p", "x/Wan2.1-I2V-14B-720P"],
)
async def test_a_name_in_any_case_or_after_a_provider_is_understood(
    front: Served, name: str
) -> None:
    status, video = await create(front, model=name)
    assert (status, video["model"]) == (200, WAN21.name)


@pytest.mark.parametrize("name", ["my-wan", "Wan2.2-I2V-A14B", ""])
async def test_a_name_of_no_served_model_is_refused_even_with_one_model(
    front: Served, name: str
) -> None:
    status, answer = await front.post(
        "/v1/videos", {"prompt": PROMPT, "reference_url": EXAMPLE_IMAGE, "model": name}
    )
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (
        *(422, "unknown_model"),
        "model",
    )
    assert f'model is "{name}"; this server serves {WAN21.name}' in answer["error"]["message"]


async def test_with_several_only_openais_names_mean_the_default(
    front: Served, broker: ScriptedBroker
) -> None:
    """A mistyped name must not quietly become another model's video."""
    broker.models = models_found(TWO_EXPERTS, WAN21)
    status, video = await create(front, model="sora-2")
    assert (status, video["model"]) == (200, TWO_EXPERTS.name)
    for name in ("Wan2.2-I2V", "gpt-5", ""):
        status, answer = await front.post(
            "/v1/videos", {"prompt": PROMPT, "reference_url": EXAMPLE_IMAGE, "model": name}
        )
        assert (status, answer["error"]["code"]) == (422, "unknown_model"), answer
        assert f"{TWO_EXPERTS.name}, {WAN21.name}" in answer["error"]["message"]


async def test_the_second_guidance_scale_reaches_the_job(
    front: Served, broker: ScriptedBroker
) -> None:
    broker.models = models_found(TWO_EXPERTS)
    _, video = await create(front, guidance_scale=4, guidance_scale_2=2.5)
    spec = broker.specs[str(video["id"])]
    assert (spec.guidance_scale, spec.guidance_scale_2) == (4.0, 2.5)


async def test_loras_reach_the_job_and_are_listed(front: Served, broker: ScriptedBroker) -> None:
    broker.models = models_found(WITH_LORAS)
    _, video = await create(front, loras=[{"name": "dust", "strength": -2}])
    assert broker.specs[str(video["id"])].loras == (LoraChoice(name="dust", strength=-2.0),)
    async with front.session.get(f"{front.url}/v1/models") as response:
        (model,) = (await response.json())["data"]
    assert model["loras"][0] == {"name": "anime", "hashes": ["a" * 64], "strength": None}


async def test_a_long_video_has_a_notice(front: Served) -> None:
    _, video = await create(front, num_frames=121)
    assert "was trained with 81" in str(video["notice"])
    _, video = await create(front)
    assert video["notice"] is None
