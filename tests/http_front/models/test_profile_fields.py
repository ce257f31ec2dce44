"""A job is checked against what its model takes, and gets that model's defaults."""

from typing import Any

import msgspec
import pytest

from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from http_front.models.profile_fields import narrowed
from http_front.video.schema import EXAMPLE_IMAGE, SubmitByFile, SubmitByUrl
from tests.http_front.models.profiles import FOUR_STEPS, SMALL, TWO_EXPERTS, WAN21
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import PROMPT, Served, picture


@pytest.fixture(autouse=True)
def models(broker: ScriptedBroker) -> None:
    broker.models = models_found(WAN21, SMALL, TWO_EXPERTS, FOUR_STEPS)


@pytest.mark.parametrize("body_type", [SubmitByUrl, SubmitByFile])
def test_only_steps_are_narrower_for_the_first_model_than_for_any_job(
    body_type: type[JobSpec],
) -> None:
    def fields(struct: type[msgspec.Struct]) -> dict[str, object]:
        properties: dict[str, object] = msgspec.json.schema(struct)["$defs"][struct.__name__][
            "properties"
        ]
        return properties

    narrow, wide = fields(narrowed(body_type, ModelProfile())), fields(body_type)
    assert list(narrow) == list(wide)
    narrower = {name for name in wide if narrow[name] != wide[name]}
    assert narrower == {"infer_steps", "image_size"}  # the size may be named as well


async def submitted(front: Served, broker: ScriptedBroker, **fields: object) -> JobSpec:
    status, answer = await submit(front, **fields)
    assert status == 202, answer
    return broker.specs[answer["requestId"]]


async def submit(front: Served, **fields: object) -> tuple[int, Any]:
    body = {"prompt": PROMPT, "image_url": EXAMPLE_IMAGE, **fields}
    return await front.post("/video/submit", body)


async def test_a_field_left_out_gets_the_default_of_the_jobs_model(
    front: Served, broker: ScriptedBroker
) -> None:
    spec = await submitted(front, broker, model=SMALL.name, guidance_scale=4)
    assert (spec.image_size, spec.num_frames, spec.infer_steps) == ("1280*704", 121, 50)
    assert (spec.guidance_scale, spec.sample_shift) == (4.0, 5.0)
    assert spec.model == SMALL.name
    spec = await submitted(front, broker)
    assert (spec.image_size, spec.num_frames, spec.infer_steps) == ("1280*720", 81, 30)
    assert spec.model == WAN21.name


async def test_a_form_gets_the_same_defaults(front: Served, broker: ScriptedBroker) -> None:
    status, answer = await front.upload(picture(), model=TWO_EXPERTS.name, guidance_scale_2="2")
    assert status == 202
    spec = broker.specs[answer["requestId"]]
    assert (spec.guidance_scale, spec.guidance_scale_2, spec.infer_steps) == (3.5, 2.0, 40)


@pytest.mark.parametrize(
    ("model", "field", "value", "message"),
    [
        (None, "infer_steps", 4, "infer_steps is 4; it must be a whole number from 20 to 100"),
        (None, "infer_steps", 500, "infer_steps is 500; it must be a whole number from 20 to 100"),
        (FOUR_STEPS, "infer_steps", 9, "infer_steps is 9; it must be a whole number from 1 to 8"),
        (
            FOUR_STEPS,
            "guidance_scale",
            2.0,
            "guidance_scale is 2.0; it must be 1.0 (four-steps is distilled and works without",
        ),
        (FOUR_STEPS, "guidance_scale_2", 2.0, "it must be 1.0 (four-steps is distilled"),
        (FOUR_STEPS, "use_attentioncache", True, "use_attentioncache is on; four-steps is dist"),
        (FOUR_STEPS, "sample_shift", 11.0, "it must be a number above 0.0 to 10.0"),
        (FOUR_STEPS, "sample_solver", "dpm++", "it must be one of unipc"),
        (SMALL, "image_size", "1280*720", "each side must be a multiple of 32 and at least 64"),
        (SMALL, "image_size", "1280*736", "942080 pixels; at most 901120 are possible (1280*704)"),
        (SMALL, "guidance_scale_2", 2.0, "Wan2.2-TI2V-5B takes none"),
    ],
)
async def test_a_value_out_of_the_models_range_is_refused_with_its_limits(
    front: Served, model: ModelProfile | None, field: str, value: object, message: str
) -> None:
    fields = {field: value} if model is None else {field: value, "model": model.name}
    status, answer = await submit(front, **fields)
    assert status == 422
    error = answer["error"]
    assert (error["code"], error["field"]) == ("invalid_field", field)
    assert message in error["message"]


async def test_a_model_that_takes_few_steps_gets_them(
    front: Served, broker: ScriptedBroker
) -> None:
    spec = await submitted(front, broker, model=FOUR_STEPS.name)
    assert (spec.infer_steps, spec.guidance_scale) == (4, 1.0)


@pytest.mark.parametrize("name", ["Wan2.3", "wan2.2-ti2v-5b", "", "x" * 300, "a\nb"])
async def test_an_unknown_model_is_refused_with_the_list(front: Served, name: str) -> None:
    status, answer = await submit(front, model=name)
    assert status == 422
    error = answer["error"]
    assert (error["code"], error["field"]) == ("unknown_model", "model")
    assert "Wan2.1-I2V-14B-720P, Wan2.2-TI2V-5B, Wan2.2-I2V-A14B, four-steps" in error["message"]
    assert len(error["message"]) < 300
    assert "\n" not in error["message"]


async def test_a_model_that_is_no_text_is_an_invalid_field(front: Served) -> None:
    status, answer = await submit(front, model=7)
    assert status == 422
    assert answer["error"] == {
        "code": "invalid_field",
        "message": "model is 7; it must be the name of a model or null",
        "field": "model",
    }


async def test_a_video_longer_than_the_models_training_is_accepted_with_a_notice(
    front: Served,
) -> None:
    status, answer = await submit(front, num_frames=82)
    assert status == 202
    assert answer["notice"].startswith("num_frames is 82; Wan2.1-I2V-14B-720P was trained")
    job = {"requestId": answer["requestId"]}
    _, found = await front.post("/video/status", job)
    assert (found["notice"], found["model"]) == (answer["notice"], WAN21.name)
    _, page = await front.get("/video/list")
    assert page["jobs"][0]["notice"] == answer["notice"]
    async with front.session.ws_connect(
        f"{front.url}/video/progress", params={"requestId": answer["requestId"]}
    ) as socket:
        update = await socket.receive_json()
    assert (update["notice"], update["model"]) == (answer["notice"], WAN21.name)


async def test_an_answer_without_a_notice_is_as_it_always_was(front: Served) -> None:
    assert set((await submit(front))[1]) == {"requestId"}
    assert set((await submit(front, model=SMALL.name))[1]) == {"requestId"}


async def test_the_default_model_may_be_named_or_not_in_a_repeated_request(
    front: Served, broker: ScriptedBroker
) -> None:
    async def request_hash(**fields: object) -> str:
        body = {"prompt": PROMPT, "image_url": EXAMPLE_IMAGE, **fields}
        headers = {"Idempotency-Key": "mine"}
        async with front.session.post(
            f"{front.url}/video/submit", json=body, headers=headers
        ) as response:
            assert response.status == 202, await response.text()
        key = getattr(broker.asked[-1], "idempotency_key")  # noqa: B009 (any request)
        return str(key.request_hash)

    plain = await request_hash()
    assert await request_hash(model=WAN21.name, infer_steps=30) == plain
    small = await request_hash(model=SMALL.name)
    assert small != plain
    assert await request_hash(model=SMALL.name, infer_steps=50) == small
    assert await request_hash(model=SMALL.name, infer_steps=30) != small


async def test_the_hash_of_a_request_is_that_of_earlier_versions(
    front: Served, broker: ScriptedBroker
) -> None:
    """Else a retry across an update would be refused."""
    body = {"prompt": PROMPT, "image_url": EXAMPLE_IMAGE, "seed": 7, "num_frames": 81}
    headers = {"Idempotency-Key": "mine"}
    async with front.session.post(f"{front.url}/video/submit", json=body, headers=headers):
        key = getattr(broker.asked[-1], "idempotency_key")  # noqa: B009 (any request)
    assert key.request_hash == ("89b78afe57835812dedde3d4e20b90848c48b551d496990eba3ef8409265abf7")


async def test_the_document_has_the_ranges_of_the_default_model_and_lists_the_models(
    front: Served, broker: ScriptedBroker
) -> None:
    broker.models = models_found(FOUR_STEPS, WAN21)
    _, document = await front.get("/openapi.json")
    for name in ("SubmitByUrl", "SubmitByFile"):
        fields = document["components"]["schemas"][name]["properties"]
        steps = fields["infer_steps"]
        assert (steps["minimum"], steps["maximum"], steps["default"]) == (1, 8, 4)
        assert fields["model"]["anyOf"][0]["enum"] == [FOUR_STEPS.name, WAN21.name]


async def test_the_document_is_served_while_the_broker_is_silent(
    front: Served, broker: ScriptedBroker
) -> None:
    broker.silent = True
    status, document = await front.get("/openapi.json")
    assert status == 200
    steps = document["components"]["schemas"]["SubmitByUrl"]["properties"]["infer_steps"]
    assert (steps["minimum"], steps["maximum"]) == (20, 100)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        (
            {"model": FOUR_STEPS.name, "step_cache": "easycache"},
            "step_cache",
            f"step_cache is on; {FOUR_STEPS.name} is distilled, and its few steps do not resemble "
            "each other enough for a cache: leave it out",
        ),
        (
            {"model": TWO_EXPERTS.name, "step_cache": "teacache"},
            "step_cache",
            f"step_cache is teacache; {TWO_EXPERTS.name} offers easycache",
        ),
        (
            {"step_cache": "magcache", "use_attentioncache": True},
            "step_cache",
            "step_cache is magcache and use_attentioncache is true; a job can use one of them",
        ),
        (
            {"step_cache_threshold": 0.1},
            "step_cache_threshold",
            "step_cache_threshold is 0.1, without step_cache; name one of easycache, magcache, "
            "teacache",
        ),
        (
            {"guidance_end": 1.5},
            "guidance_end",
            "guidance_end is 1.5; it must be a number from 0.0 to 1.0",
        ),
    ],
)
async def test_a_step_cache_that_the_job_cannot_have_is_refused_by_name(
    front: Served, fields: dict[str, object], field: str, message: str
) -> None:
    status, answer = await submit(front, **fields)
    assert status == 422, answer
    assert (answer["error"]["field"], answer["error"]["message"]) == (field, message)


async def test_the_threshold_is_the_models_unless_the_job_gives_one(
    front: Served, broker: ScriptedBroker
) -> None:
    spec = await submitted(front, broker, step_cache="magcache", guidance_end=0.5)
    assert (spec.step_cache, spec.guidance_end) == ("magcache", 0.5)
    assert WAN21.step_cache_threshold(spec) == 0.24
    spec = await submitted(front, broker, step_cache="magcache", step_cache_threshold=0.1)
    assert WAN21.step_cache_threshold(spec) == 0.1
