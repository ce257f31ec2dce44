"""Images in JSON bodies: as data URLs in all their spellings, up to the limit of a file."""

import base64
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from broker.wire.requests import SubmitJob
from http_front.errors import FrontError
from http_front.images.spool import open_spools
from http_front.video.images_in_json import ImagesInJson
from tests.http_front.models.profiles import TWO_EXPERTS
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import PROMPT, Served, picture

# Decoders ignore what follows the picture.
LARGE = picture() + bytes(range(256)) * 400
TEXT = base64.b64encode(LARGE).decode()
URL = f"data:image/png;base64,{TEXT}"
ROUTES = [("/video/submit", "image_url"), ("/v1/videos", "input_reference")]


async def submit(front: Served, path: str, body: Mapping[str, object]) -> tuple[int, Any]:
    return await send(front, path, json.dumps({"prompt": PROMPT, **body}))


async def send(front: Served, path: str, text: str) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    body = BytesIO(text.encode())
    async with front.session.post(front.url + path, data=body, headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(("path", "field"), ROUTES)
async def test_a_long_data_url_is_the_image_on_every_route(
    front: Served, broker: ScriptedBroker, path: str, field: str
) -> None:
    status, answer = await submit(front, path, {"num_frames": 24, field: URL, "seed": 5})
    assert status in (200, 202), answer
    spec = broker.specs[answer.get("requestId") or answer["id"]]
    assert (spec.num_frames, spec.seed) == (24, 5)
    assert len(front.stored_images()) == 1


@pytest.mark.parametrize(
    "spelt",
    [
        " data:image/png;charset=utf-8;base64,{plain}",
        "data:application/octet-stream;base64,{plain}",
        "data:;base64,{plain}",
        "DATA:image/jpg; base64,\n{lines}",
        "data:image/png;base64,{url_safe}",
        "data:image/png;base64,{unpadded}",
    ],
)
@pytest.mark.parametrize("image", [picture() + b"\xfb\xff" * 20, LARGE], ids=["short", "long"])
async def test_a_data_url_is_read_in_every_spelling(
    front: Served, spelt: str, image: bytes
) -> None:
    text = base64.b64encode(image).decode()
    url = spelt.format(
        plain=text,
        lines=base64.encodebytes(image).decode(),
        url_safe=base64.urlsafe_b64encode(image).decode(),
        unpadded=text.rstrip("="),
    )
    status, answer = await submit(front, "/video/submit", {"image_url": url})
    assert status == 202, answer


async def test_an_escaped_data_url_is_read(front: Served) -> None:
    """As PHP and .NET write JSON."""
    text = json.dumps({"prompt": PROMPT, "image_url": URL})
    text = text.replace("/", "\\/").replace("+", "\\u002B")
    status, answer = await send(front, "/video/submit", text)
    assert status == 202, answer


@pytest.mark.parametrize("last_is_first", [False, True])
@pytest.mark.parametrize("first_url", [URL, "data:image/png;base64," + TEXT[:-40]])
async def test_two_images_come_to_their_places(
    front: Served, broker: ScriptedBroker, last_is_first: bool, first_url: str
) -> None:
    broker.models = models_found(TWO_EXPERTS)
    red = base64.b64encode(picture(128, 96) + bytes(80_000)).decode()
    images = {"image_url": first_url, "last_image_url": f"data:;base64,{red}"}
    if last_is_first:
        images = dict(reversed(images.items()))
    status, answer = await submit(front, "/video/submit", {**images})
    assert status == 202, answer
    (asked,) = (each for each in broker.asked if isinstance(each, SubmitJob))
    sizes = {}
    for path in front.stored_images():
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert asked.last_image is not None
    assert sizes[asked.image] != sizes[asked.last_image] == (128, 96)


async def test_a_long_frame_image_comes_to_its_place(front: Served, broker: ScriptedBroker) -> None:
    broker.models = models_found(TWO_EXPERTS)
    frames = [
        {"type": "image_url", "image_url": {"url": URL}, "frame_type": kind}
        for kind in ("last_frame", "first_frame")
    ]
    status, answer = await submit(front, "/v1/videos", {"frame_images": frames})
    assert status == 200, answer
    (asked,) = (each for each in broker.asked if isinstance(each, SubmitJob))
    assert asked.last_image == asked.image


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (TEXT[:40_000], "is base64 without a head; write data:image/png;base64, before it"),
        ("data:image/svg+xml,<svg/>", "is a data URL that is not in base64"),
        ("boat.jpg", "is the name of a file; send the file itself in a form"),
        ("data:image/png;base64,%%%%", "is a data URL with invalid base64"),
        ("data:image/png;base64,QUJ=QUJD", "is a data URL with invalid base64"),
        ("data:image/png;base64,QUJDQ", "is a data URL with invalid base64"),
        (URL + "%", "is a data URL with invalid base64"),
    ],
)
async def test_what_is_no_image_is_refused_with_what_to_send(
    front: Served, value: str, message: str
) -> None:
    status, answer = await submit(front, "/video/submit", {"image_url": value})
    assert status == 422
    assert answer["error"]["message"].startswith(f"image_url {message}")
    assert answer["error"]["field"] == "image_url"
    assert front.stored_images() == []


@pytest.mark.parametrize(("path", "field"), ROUTES)
async def test_a_body_that_is_long_without_an_image_is_refused_with_what_to_send(
    front: Served, path: str, field: str
) -> None:
    for body in ({field: TEXT}, {field: URL, "prompt": "x" * 70_000}):
        status, answer = await submit(front, path, body)
        assert (status, answer["error"]["code"]) == (413, "body_too_large")
        assert "data:image/jpeg;base64," in answer["error"]["message"]
    large = base64.b64encode(bytes((20 << 20) + 1)).decode()
    status, answer = await submit(front, path, {field: f"data:;base64,{large}"})
    assert (status, answer["error"]["code"]) == (413, "image_too_large")
    assert front.stored_images() == []


async def test_a_third_image_is_refused(front: Served) -> None:
    images = dict.fromkeys(("image_url", "last_image_url", "x"), URL)
    status, answer = await submit(front, "/video/submit", {**images})
    assert (status, answer["error"]["code"]) == (400, "invalid_body")


@pytest.mark.parametrize("num_bytes", [1, 7, 300, 1 << 16])
def test_a_body_may_be_cut_anywhere(tmp_path: Path, num_bytes: int) -> None:
    fields = {"a": 'x"\\\u00e9\n', "url": "data:image/png;base64,QUJD+/8=", "b": ["data:x", {}]}
    body = json.dumps(fields).replace("/", "\\/").replace("+", "\\u002b").encode()
    with open_spools(tmp_path) as spools:
        reader = ImagesInJson(spools)
        for at in range(0, len(body), num_bytes):
            reader.write(body[at : at + num_bytes])
        found = reader.finish()
        assert spools.image.path.read_bytes() == b"ABC\xfb\xff"
        assert found == fields | {"url": spools.image.token}


@pytest.mark.parametrize("body", [b'{"a": "data:;base64,QUJD', b'{"a": "\\', b'{"a": "b"', b'"a"'])
def test_a_broken_body_is_refused(tmp_path: Path, body: bytes) -> None:
    with open_spools(tmp_path) as spools:
        reader = ImagesInJson(spools)
        reader.write(body)
        with pytest.raises(FrontError, match="JSON"):
            reader.finish()
