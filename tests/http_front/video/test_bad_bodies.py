from io import BytesIO
from typing import Any

import aiohttp
import msgspec
import pytest

from broker.wire.job import JobSpec
from tests.http_front.besieged import Besieged
from tests.http_front.serving import PROMPT, picture
from tests.http_front.vectors import VALID_BODY, Case, cases, check_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"Content-Type": "application/json"}


async def submit_bytes(
    besieged: Besieged, body: bytes, headers: dict[str, str] = JSON
) -> tuple[int, Any]:
    url = besieged.front.url + "/video/submit"
    async with besieged.front.session.post(url, data=BytesIO(body), headers=headers) as response:
        return response.status, await response.json()


async def submit_with(besieged: Besieged, **changes: object) -> tuple[int, Any]:
    fields = msgspec.json.decode(VALID_BODY) | changes
    return await submit_bytes(besieged, msgspec.json.encode(fields))


@pytest.mark.parametrize("case", cases("json", "json-body", "body-base64"), ids=lambda c: c.id)
async def test_a_bad_body_makes_no_job(besieged: Besieged, case: Case) -> None:
    status, answer = await submit_bytes(besieged, case.body)
    check_answer(case, status, answer)
    if status != 202:
        await besieged.assert_nothing_happened()
    assert (await submit_bytes(besieged, VALID_BODY.encode()))[0] == 202


@pytest.mark.parametrize("case", cases("json", "status-body"), ids=lambda c: c.id)
@pytest.mark.parametrize("path", ["/video/status", "/video/cancel"])
async def test_a_bad_reference_is_refused(besieged: Besieged, path: str, case: Case) -> None:
    async with besieged.front.session.post(
        besieged.front.url + path, data=case.body, headers=JSON
    ) as response:
        check_answer(case, response.status, await response.json())


@pytest.mark.parametrize("case", cases("json", "job-id"), ids=lambda c: c.id)
@pytest.mark.parametrize("path", ["/video/status", "/video/cancel"])
async def test_an_id_that_no_job_has_is_404(besieged: Besieged, path: str, case: Case) -> None:
    status, answer = await besieged.front.post(path, {"requestId": case.text})
    assert status == 404
    check_answer(case, status, answer)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "num_frames",
            1_000_000,
            "num_frames is 1000000; it must be a whole number from 24 to 121",
        ),
        ("infer_steps", "many", "infer_steps is many; it must be a whole number from 20 to 100"),
        ("seed", -2, "seed is -2; it must be a whole number from 0 to 2147483647 or null"),
        ("guidance_scale", 0.5, "guidance_scale is 0.5; it must be a number from 1.0 to 20.0"),
        ("sample_shift", 0, "sample_shift is 0; it must be a number above 0.0 to 100.0"),
        ("dit_fsdp", 2, "dit_fsdp is 2; it must be true or false or null"),
        (
            "sample_solver",
            "heun",
            "sample_solver is heun; it must be one of dpm++, dpmpp, euler, unipc",
        ),
        (
            "prompt",
            "short",
            'prompt is "short" (5 characters); it must be a string of 10 to 500 characters',
        ),
        ("image_size", "big", 'image_size is "big"; write width and height as 1280*720'),
        ("model", 7, "model is 7; it must be the name of a model or null"),
        (
            "image_size",
            "1281*720",
            "image_size is 1281*720; each side must be a multiple of 16 and at least 64",
        ),
        ("output_path", "/etc/x", '"output_path" is not a field of this request'),
    ],
)
async def test_a_refusal_names_field_value_and_range(
    besieged: Besieged, field: str, value: object, message: str
) -> None:
    status, answer = await submit_with(besieged, **{field: value})
    assert status == 422
    assert answer["error"]["code"] == "invalid_field"
    assert answer["error"]["field"] == field
    assert answer["error"]["message"].startswith(message)


async def test_a_missing_field_is_named(besieged: Besieged) -> None:
    status, answer = await submit_bytes(besieged, b'{"image_url": "http://images.example.com/"}')
    assert status == 422
    assert answer["error"]["message"] == (
        "prompt is missing; it must be a string of 10 to 500 characters"
    )


async def test_every_wrong_field_is_named_at_once(besieged: Besieged) -> None:
    status, answer = await submit_with(
        besieged,
        **{"prompt": "short", "num_frames": 500, "image_size": "1281*720", "infer_step": 20},
        **{"use_attentioncache": True, "end_step": 3, "seed": None},
    )
    error = answer["error"]
    assert (status, error["field"]) == (422, "prompt")
    found = {each["field"]: each["message"] for each in error["fields"]}
    assert list(found) == ["prompt", "num_frames", "infer_step", "image_size", "end_step"]
    assert found["infer_step"].endswith("did you mean infer_steps?")
    assert all(message in error["message"] for message in found.values())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("numFrames", "num_frames"),
        ("NUM-FRAMES", "num_frames"),
        ("size", "image_size"),
        ("num_inference_steps", "infer_steps"),
        ("negativeprompt", "negative_prompt"),
        ("imageurl", "image_url"),
    ],
)
async def test_a_misspelt_field_is_answered_with_the_one_that_is_meant(
    besieged: Besieged, name: str, meant: str
) -> None:
    _, answer = await submit_with(besieged, **{name: 1})
    assert answer["error"]["message"].endswith(f"did you mean {meant}?")


async def test_the_fields_of_a_request_include_the_images(besieged: Besieged) -> None:
    _, answer = await submit_with(besieged, xyz=1)
    assert answer["error"]["message"].endswith("image, last_image")


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("num_frames", "81", 81),
        ("num_frames", 81.0, 81),
        ("num_frames", "81.0", 81),
        ("num_frames", None, 81),
        ("guidance_scale", "4.5", 4.5),
        ("dit_fsdp", "true", True),
        ("dit_fsdp", "False", False),
        ("dit_fsdp", 0, False),
        ("use_attentioncache", None, False),
        ("image_size", " 1280 x 720 ", "1280*720"),
        ("image_size", "1280\u00d7720", "1280*720"),
        ("image_size", "1280x720", "1280x720"),
        ("image_size", "720p", "1168*768"),
        ("image_size", "480p", "768*512"),
        ("image_size", "AUTO", "1168*768"),
    ],
)
async def test_a_clear_value_is_read_however_it_is_spelt(
    besieged: Besieged, field: str, value: object, read: object
) -> None:
    """The image has three pixels of width for two of height."""
    status, answer = await submit_with(besieged, **{field: value})
    assert status == 202, answer
    _, page = await besieged.front.get("/video/list?limit=1")
    assert page["jobs"][0]["settings"][field] == read


async def test_a_seed_of_minus_one_is_random(besieged: Besieged) -> None:
    for _ in range(2):
        assert (await submit_with(besieged, seed="-1"))[0] == 202
    _, page = await besieged.front.get("/video/list?limit=2")
    seeds = [job["settings"]["seed"] for job in page["jobs"]]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0


async def test_every_default_is_the_default_of_the_job_spec(besieged: Besieged) -> None:
    body = {"prompt": PROMPT, "image_url": "http://images.example.com/cat.png", "seed": 1}
    status, answer = await submit_bytes(besieged, msgspec.json.encode(body))
    assert status == 202
    _, page = await besieged.front.get("/video/list?limit=1")
    assert page["jobs"][0]["requestId"] == answer["requestId"]
    settings = msgspec.convert(page["jobs"][0]["settings"], JobSpec)
    # The model has the name of its folder.
    assert settings == JobSpec(prompt=PROMPT, seed=1, model="model")


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"num_frames": "many"}, 422, "num_frames"),
        ({"num_frames": "1000"}, 422, "num_frames"),
        ({"dit_fsdp": "perhaps"}, 422, "dit_fsdp"),
        ({"image_url": "http://images.example.com/cat.png"}, 422, "image_url"),
        ({"colour": "red"}, 422, "colour"),
        ({"prompt": "x" * 70_000}, 413, None),
    ],
)
async def test_a_form_is_checked_like_json(
    besieged: Besieged, fields: dict[str, str], status: int, field: str | None
) -> None:
    found, answer = await besieged.front.upload(picture(), **fields)
    assert (found, answer["error"]["field"]) == (status, field)
    await besieged.assert_nothing_happened()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_frames", "500", "num_frames is 500; it must be a whole number from 24 to 121"),
        ("dit_fsdp", "perhaps", "dit_fsdp is perhaps; it must be true or false or null"),
        ("prompt", "500", 'prompt is "500" (3 characters); it must be a string of 10 to 500'),
    ],
)
async def test_a_number_in_a_form_is_shown_without_quotes(
    besieged: Besieged, field: str, value: str, message: str
) -> None:
    _, answer = await besieged.front.upload(picture(), **{field: value})
    assert answer["error"]["message"].startswith(message)


async def test_a_form_may_name_a_url_instead_of_a_file(besieged: Besieged) -> None:
    form = {"prompt": PROMPT, "image_url": "http://images.example.com/cat.png"}

    with aiohttp.MultipartWriter("form-data") as writer:
        for name, value in form.items():
            writer.append(value).set_content_disposition("form-data", name=name)
    async with besieged.front.session.post(
        besieged.front.url + "/video/submit", data=writer
    ) as response:
        assert response.status == 202


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nno end',
        b"--b\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--b--\r\n',
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n' * 2 + b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="seed"\r\nContent-Transfer-Encoding: x\r\n'
        b"\r\n1\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\nX: ' + b"y" * 9000 + b"\r\n\r\n1\r\n",
        b"".join(
            b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n1\r\n' % n
            for n in range(200)
        )
        + b"--b--\r\n",
    ],
)
async def test_a_broken_form_is_refused(besieged: Besieged, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, answer = await submit_bytes(besieged, body, headers)
    assert 400 <= status < 500, answer
    assert set(answer["error"]) - {"fields"} == {"code", "message", "field"}
    await besieged.assert_nothing_happened()


async def test_a_file_over_20_mib_is_413_and_leaves_nothing(besieged: Besieged) -> None:
    status, answer = await besieged.front.upload(bytes((20 << 20) + 1))
    assert (status, answer["error"]["code"]) == (413, "image_too_large")
    await besieged.assert_nothing_happened()
