"""What gateways send to `/v1/videos`, and the answers to what no model here can do."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from http_front.video.schema import EXAMPLE_IMAGE
from tests.http_front.models.profiles import SMALL, WAN21
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import PROMPT, Served, picture
from tests.http_front.video.test_last_image import data_url

DATA = Path(__file__).parents[2] / "data" / "gateway_requests.json"
RECORDED = json.loads(DATA.read_text())["requests"]


async def send(front: Served, recorded: dict[str, Any]) -> tuple[int, Any]:
    url = front.url + recorded["path"]
    if "json" in recorded:
        return await front.post(recorded["path"], filled(recorded["json"]))
    form = aiohttp.FormData(filled(recorded["form"]), default_to_multipart=True)
    for name in recorded["files"]:
        form.add_field(name, BytesIO(picture()), filename="cat.png", content_type="image/png")
    async with front.session.post(url, data=form) as response:
        return response.status, await response.json()


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(fields).replace("{{DATA_URL}}", data_url(picture()))
    found: dict[str, Any] = json.loads(text.replace("{{PROMPT}}", PROMPT))
    return found


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["client"])
async def test_the_request_of_a_gateway_makes_the_video_that_it_describes(
    front: Served, broker: ScriptedBroker, recorded: dict[str, Any]
) -> None:
    status, video = await send(front, recorded)
    assert status == 200, video
    spec = broker.specs[video["id"]]
    assert {name: getattr(spec, name) for name in recorded["spec"]} == recorded["spec"]
    assert broker.images[video["id"]]


async def create(front: Served, **fields: object) -> tuple[int, Any]:
    body = {"prompt": PROMPT, "reference_url": EXAMPLE_IMAGE, **fields}
    return await front.post("/v1/videos", body)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"seconds": "12"}, "seconds", "seconds is 12; it must be from 1.5 to 7.5625"),
        ({"duration": 8}, "seconds", "seconds is 8"),
        ({"n": 2}, "n", '"n" is not a field of this request'),
        ({"enable_teacache": True}, "enable_teacache", "is not a field of this request"),
        ({"width": 832}, "height", "give both width and height"),
        ({"width": 832, "height": 480, "size": "1280x720"}, "size", "differ: 1280x720 and 832x480"),
        ({"size": "1280x720", "aspect_ratio": "9:16"}, "aspect_ratio", "size is 1280x720"),
        ({"aspect_ratio": "wide"}, "aspect_ratio", "write it as 16:9, or auto"),
        ({"size": "1080p"}, "size", "write width and height as 1280*720"),
        ({"resolution": "832x481"}, "size", "multiple of 16"),
        ({"seed": 2**63}, "seed", "from 0 to 9223372036854775807"),
        ({"negative_promt": "x"}, "negative_promt", "did you mean negative_prompt?"),
        ({"frame_images": [{}]}, "frame_images", "must be a list"),
    ],
)
async def test_what_changes_the_video_and_cannot_be_had_is_refused(
    front: Served, fields: dict[str, object], param: str, words: str
) -> None:
    status, answer = await create(front, **fields)
    assert (status, answer["error"]["param"]) == (422, param), answer
    assert words in answer["error"]["message"]


async def test_all_wrong_fields_are_named_by_their_names_here(front: Served) -> None:
    fields = {"size": "1281x720", "seconds": "9", "num_inference_steps": 5, "flow_shft": 3}
    _, answer = await create(front, **fields)
    found = [each["field"] for each in answer["error"]["fields"]]
    assert found == ["num_inference_steps", "flow_shft", "seconds", "size"]
    assert answer["error"]["param"] == "num_inference_steps"


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"aspect_ratio": "16:9"}, "1280x720"),
        ({"aspect_ratio": "1:1"}, "960x960"),
        ({"aspect_ratio": "1:1", "resolution": "480p"}, "624x624"),
        ({"aspect_ratio": "auto", "size": "480P"}, "624x624"),
        ({"size": "832x480", "aspect_ratio": "16:9"}, "832x480"),
        ({"size": "adaptive"}, "960x960"),
    ],
)
async def test_the_size_may_be_named_by_its_shape(
    front: Served, fields: dict[str, object], size: str
) -> None:
    """The image is square."""
    status, video = await create(front, **fields)
    assert (status, video["size"]) == (200, size), video


async def test_a_resolution_is_what_the_model_makes_of_it(
    front: Served, broker: ScriptedBroker
) -> None:
    broker.models = models_found(SMALL)
    _, video = await create(front, size="720p", aspect_ratio="16:9")
    assert video["size"] == "1248x704"
    broker.models = models_found(WAN21)


@pytest.mark.parametrize("path", ["/v1/videos/", "/v1/models/", "/v1/models/Wan2.1-I2V-14B-720P/"])
async def test_a_slash_at_the_end_makes_no_difference(front: Served, path: str) -> None:
    status, _ = await front.get(path)
    assert status == 200
    assert (await front.post("/v1/videos/", {}))[1]["error"]["param"] == "input_reference"
