"""The video's last frame: on every route, with the same checks as the first."""

import asyncio
import base64
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from broker.wire.requests import OfferJob
from tests.http_front.images.image_server import ImageServer, http_answer
from tests.http_front.models.profiles import FIRST_AND_LAST, TWO_EXPERTS, WAN21
from tests.http_front.scripted_broker import ScriptedBroker, models_found
from tests.http_front.serving import PROMPT, Served, picture, serve

FIRST, LAST = picture(96, 64), picture(64, 96)


@pytest.fixture(autouse=True)
def models(broker: ScriptedBroker) -> None:
    broker.models = models_found(WAN21, TWO_EXPERTS, FIRST_AND_LAST)


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


async def post_form(
    front: Served, path: str, files: dict[str, bytes], key: str | None = None, **fields: str
) -> tuple[int, Any]:
    form = aiohttp.FormData({"prompt": PROMPT, **fields})
    for name, image in files.items():
        form.add_field(name, BytesIO(image), filename=f"{name}.png", content_type="image/png")
    headers = {} if key is None else {"Idempotency-Key": key}
    async with front.session.post(front.url + path, data=form, headers=headers) as response:
        return response.status, await response.json()


def stored(broker: ScriptedBroker, answer: Any) -> tuple[str, str | None]:
    """Return the names of the two images of a job."""
    job_id = answer.get("requestId") or answer["id"]
    return broker.images[job_id], broker.last_images[job_id]


async def both_names(front: Served, broker: ScriptedBroker) -> tuple[str, str]:
    """Return the names under which the two images are stored."""
    names = []
    for image in (FIRST, LAST):
        _, answer = await front.upload(image)
        names.append(broker.images[answer["requestId"]])
    return names[0], names[1]


MODEL = {"model": FIRST_AND_LAST.name}
FRAMES = [
    {
        "type": "image_url",
        "image_url": {"url": data_url(LAST)},
        "frame_type": "last_frame",
    },
    {"image": data_url(FIRST), "frame": "first"},
]


async def test_two_files_of_a_form_are_the_first_and_the_last_frame(
    front: Served, broker: ScriptedBroker
) -> None:
    files = {"image": FIRST, "last_image": LAST}
    status, answer = await post_form(front, "/video/submit", files, **MODEL)
    assert status == 202, answer
    assert stored(broker, answer) == await both_names(front, broker)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/video/submit", {"image_url": data_url(FIRST), "last_image_url": data_url(LAST)}),
        ("/v1/videos", {"reference_url": data_url(FIRST), "last_image_url": data_url(LAST)}),
        ("/v1/videos", {"reference_url": data_url(FIRST), "last_image": data_url(LAST)}),
        (
            "/v1/videos",
            {
                "input_reference": {"image_url": {"url": data_url(FIRST)}},
                "last_image": {"image_url": data_url(LAST)},
            },
        ),
        ("/v1/videos", {"frame_images": FRAMES}),
        ("/v1/videos", {"reference_url": data_url(FIRST), "frame_images": FRAMES[:1]}),
    ],
    ids=["submit", "last_image_url", "last_image", "objects", "frames", "mixed"],
)
async def test_json_may_hold_both(
    front: Served, broker: ScriptedBroker, path: str, fields: dict[str, object]
) -> None:
    status, answer = await front.post(path, {"prompt": PROMPT, **MODEL, **fields})
    assert status in (200, 202), answer
    assert stored(broker, answer) == await both_names(front, broker)


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({"input_reference": FIRST, "last_image": LAST}, {}),
        ({"input_reference": FIRST}, {"last_image_url": data_url(LAST)}),
        ({"input_reference": FIRST}, {"last_image": data_url(LAST)}),
        ({"input_reference": FIRST}, {"last_image[image_url]": data_url(LAST)}),
        ({"last_image": LAST}, {"reference_url": data_url(FIRST)}),
    ],
)
async def test_a_form_of_the_openai_package_may_hold_both(
    front: Served, broker: ScriptedBroker, files: dict[str, bytes], fields: dict[str, str]
) -> None:
    status, answer = await post_form(front, "/v1/videos", files, **MODEL, **fields)
    assert status == 200, answer
    assert stored(broker, answer) == await both_names(front, broker)


@pytest.mark.parametrize("path", ["/video/submit", "/v1/videos"])
async def test_a_model_that_needs_a_last_frame_refuses_a_job_without_one(
    front: Served, broker: ScriptedBroker, path: str
) -> None:
    first = {"/video/submit": "image", "/v1/videos": "input_reference"}[path]
    status, answer = await post_form(front, path, {first: FIRST}, **MODEL)
    assert (status, answer["error"]["code"]) == (422, "invalid_field")
    assert (answer["error"].get("field") or answer["error"]["param"]) == "last_image"
    assert "needs the video's last frame" in answer["error"]["message"]
    assert not front.stored_images()


async def test_a_model_that_takes_no_last_frame_refuses_one(
    front: Served, broker: ScriptedBroker
) -> None:
    files = {"image": FIRST, "last_image": LAST}
    status, answer = await post_form(front, "/video/submit", files)
    assert status == 422
    assert answer["error"] == {
        "code": "invalid_field",
        "message": "last_image is given; Wan2.1-I2V-14B-720P takes none",
        "field": "last_image",
    }
    assert not front.stored_images()


async def test_an_optional_last_frame_may_be_left_out(
    front: Served, broker: ScriptedBroker
) -> None:
    for files, number in (({"image": FIRST}, 1), ({"image": FIRST, "last_image": LAST}, 2)):
        status, answer = await post_form(front, "/video/submit", files, model=TWO_EXPERTS.name)
        assert status == 202
        assert len(set(stored(broker, answer)) - {None}) == number


@pytest.mark.parametrize(
    ("files", "fields", "code", "field"),
    [
        ({"image": FIRST, "last_image": b"no"}, {}, "image_invalid", "last_image"),
        ({"image": FIRST, "last_image": b""}, {}, "image_invalid", "last_image"),
        (
            {"image": FIRST, "last_image": bytes((20 << 20) + 1)},
            {},
            "image_too_large",
            "last_image",
        ),
        (
            {"image": FIRST},
            {"last_image_url": "http://127.0.0.1/x.png"},
            "image_url_forbidden",
            "last_image_url",
        ),
        (
            {"image": FIRST, "last_image": LAST},
            {"last_image_url": data_url(LAST)},
            "invalid_body",
            None,
        ),
    ],
    ids=["invalid", "empty", "large", "forbidden", "twice"],
)
async def test_a_bad_last_frame_is_refused_by_its_own_field(
    front: Served,
    broker: ScriptedBroker,
    files: dict[str, bytes],
    fields: dict[str, str],
    code: str,
    field: str | None,
) -> None:
    _, answer = await post_form(front, "/video/submit", files, **MODEL, **fields)
    assert (answer["error"]["code"], answer["error"]["field"]) == (code, field)
    assert not broker.specs


@pytest.mark.parametrize(
    ("frames", "field", "words"),
    [
        ("first", "frame_images", "must be a list"),
        ([{"image_url": data_url(FIRST), "frame_type": "middle"}], "frame_images", "must be"),
        ([{"frame_type": "first_frame"}], "frame_images", "must be a list"),
        ([{"image_url": data_url(FIRST), "frame": "first", "x": 1}], "frame_images", "must be"),
        ([7], "frame_images", "must be a list"),
        ([FRAMES[1], FRAMES[1], FRAMES[0]], "input_reference", "give one image"),
        ([FRAMES[1], FRAMES[0], FRAMES[0]], "last_image", "give one last_image"),
        ([FRAMES[0]], "input_reference", "give one image"),
        ([], "input_reference", "give one image"),
    ],
)
async def test_bad_frames_of_a_gateway_are_refused(
    front: Served, frames: object, field: str, words: str
) -> None:
    body = {"prompt": PROMPT, **MODEL, "frame_images": frames}
    status, answer = await front.post("/v1/videos", body)
    assert (status, answer["error"]["param"]) == (422, field)
    assert words in answer["error"]["message"]


async def test_two_images_of_the_largest_size_fit_into_a_form(
    front: Served, broker: ScriptedBroker
) -> None:
    # Decoders ignore zeros after the picture.
    files = {
        name: image + bytes((20 << 20) - len(image))
        for name, image in (("image", FIRST), ("last_image", LAST))
    }
    status, answer = await post_form(front, "/video/submit", files, **MODEL)
    assert status == 202, answer


async def test_known_images_are_not_stored_again(front: Served, broker: ScriptedBroker) -> None:
    for _ in range(2):
        files = {"image": FIRST, "last_image": LAST}
        assert (await post_form(front, "/video/submit", files, **MODEL))[0] == 202
    assert sum(isinstance(request, OfferJob) for request in broker.asked) == 1
    other = {"image": FIRST, "last_image": picture(128, 64)}
    assert (await post_form(front, "/video/submit", other, **MODEL))[0] == 202
    assert sum(isinstance(request, OfferJob) for request in broker.asked) == 2


async def test_the_last_frame_belongs_to_the_request_that_a_key_names(
    front: Served, broker: ScriptedBroker
) -> None:
    hashes = []
    for files in (
        {"image": FIRST, "last_image": LAST},
        {"image": FIRST, "last_image": LAST},
        {"image": FIRST, "last_image": FIRST},
        {"image": FIRST},
    ):
        fields = {"model": TWO_EXPERTS.name}
        assert (await post_form(front, "/video/submit", files, "mine", **fields))[0] == 202
        key = getattr(broker.asked[-1], "idempotency_key")  # noqa: B009 (any request)
        hashes.append(key.request_hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest_asyncio.fixture
async def fetching(tmp_path: Path, broker: ScriptedBroker) -> AsyncIterator[tuple[Served, str]]:
    async with (
        ImageServer().listen("127.0.0.1") as images,
        serve(tmp_path, broker.addresses, allow_private_images=True) as front,
    ):
        images.answer = http_answer(LAST)
        yield front, f"http://127.0.0.1:{images.port}/last.png"


async def test_both_are_fetched_from_their_addresses(
    fetching: tuple[Served, str], broker: ScriptedBroker
) -> None:
    front, address = fetching
    body = {"prompt": PROMPT, "image_url": address, "last_image_url": address, **MODEL}
    async with asyncio.timeout(20):
        status, answer = await front.post("/video/submit", body)
    assert status == 202, answer
    first, last = stored(broker, answer)
    assert first == last


async def test_an_empty_part_without_a_file_name_is_no_last_frame(
    front: Served, broker: ScriptedBroker
) -> None:
    """The form of a page sends one for a file that was not chosen."""
    form = aiohttp.FormData({"prompt": PROMPT, "last_image": ""})
    form.add_field("image", BytesIO(FIRST), filename="first.png")
    async with front.session.post(f"{front.url}/video/submit", data=form) as response:
        answer = await response.json()
        assert response.status == 202, answer
    assert stored(broker, answer)[1] is None
