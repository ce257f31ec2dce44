import re
import time

import pytest
from PIL import Image

from tests.http_front.besieged import Besieged
from tests.http_front.images.image_server import http_answer
from tests.http_front.serving import PROMPT
from tests.http_front.vectors import IMAGE_URL, Case, cases, check_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
}
IMAGE_CASES = cases("image", "file-base64", "file-gzip-base64")


def quarters(image: Image.Image) -> list[str]:
    """Return the name of the nearest colour for each quarter."""
    width, height = image.size
    points = [(width * x // 4, height * y // 4) for y in (1, 3) for x in (1, 3)]
    return [nearest(image.getpixel(point)) for point in points]


def nearest(pixel: object) -> str:
    assert isinstance(pixel, tuple)
    return min(
        COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(pixel, COLOURS[name], strict=True))
    )


@pytest.mark.parametrize("case", IMAGE_CASES, ids=lambda case: case.id)
async def test_a_bad_file_is_refused_quickly_and_leaves_nothing(
    besieged: Besieged, case: Case
) -> None:
    start = time.monotonic()
    status, answer = await besieged.front.upload(case.file)
    assert time.monotonic() - start < 5  # takes at most 2 s on an idle machine
    check_answer(case, status, answer)
    stored = besieged.front.stored_images()
    if status != 202:
        assert answer["error"]["code"] == "image_invalid"
        assert answer["error"]["field"] == "image"
        await besieged.assert_nothing_happened()
    else:
        assert len(stored) == 1
    expected = re.search(r"upright it is (.*), (\d+)x(\d+) ", case.expect)
    if expected:
        with Image.open(stored[0]) as image:
            assert image.size == (int(expected[2]), int(expected[3]))
            assert quarters(image) == expected[1].replace("/ ", "").split()
    elif "red green / blue white" in case.expect and status == 202:
        with Image.open(stored[0]) as image:
            assert quarters(image) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize("name", ["image-047", "image-051-png", "image-053-svg"])
async def test_a_bad_file_from_a_url_is_refused_too(besieged: Besieged, name: str) -> None:
    (case,) = [case for case in IMAGE_CASES if case.id == name]
    besieged.images.answer = http_answer(case.file)
    status, answer = await besieged.front.post(
        "/video/submit",
        {"prompt": PROMPT, "image_url": IMAGE_URL},
    )
    check_answer(case, status, answer)
    await besieged.assert_nothing_happened()
