"""Text in other encodings than UTF-8: honoured, or refused with the encoding's name."""

import codecs
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, picture

CHINESE = "一只猫慢慢走过一座木桥"


async def status_of(front: Served, body: bytes) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    url = front.url + "/video/status"
    async with front.session.post(url, data=body, headers=headers) as response:
        return response.status, await response.json()


async def submit_prompt(front: Served, prompt: bytes, kind: str) -> tuple[int, Any]:
    """Submit a form whose prompt is bytes of a given content type."""
    with aiohttp.MultipartWriter("form-data") as writer:
        text = writer.append(prompt, {"Content-Type": kind})
        text.set_content_disposition("form-data", name="prompt")
        image = writer.append(picture(), {"Content-Type": "image/png"})
        image.set_content_disposition("form-data", name="image", filename="cat.png")
    async with front.session.post(front.url + "/video/submit", data=writer) as response:
        return response.status, await response.json()


async def test_json_may_begin_with_a_byte_order_mark(front: Served) -> None:
    body = codecs.BOM_UTF8 + msgspec.json.encode({"requestId": await front.submit()})
    assert (await status_of(front, body))[0] == 200


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "it seems to be in UTF-16 or UTF-32; send UTF-8"),
        ("utf-16-le", "it seems to be in UTF-16 or UTF-32; send UTF-8"),
        ("utf-32", "it seems to be in UTF-16 or UTF-32; send UTF-8"),
        ("gbk", "it is not in UTF-8"),
    ],
)
async def test_json_in_another_encoding_is_named(
    front: Served, encoding: str, message: str
) -> None:
    status, answer = await status_of(front, f'{{"requestId": "{CHINESE}"}}'.encode(encoding))
    assert status == 400
    assert answer["error"]["message"] == f"the body is not valid JSON: {message}"


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8-SIG", "GBK", "gb18030", "Big5", "utf-16"])
async def test_a_part_is_read_in_the_charset_that_it_names(
    front: Served, broker: ScriptedBroker, charset: str
) -> None:
    prompt = "一只小狗在雨中慢慢走" if charset == "Big5" else CHINESE
    kind = f"text/plain; charset={charset}"
    status, answer = await submit_prompt(front, prompt.encode(charset, "replace"), kind)
    assert status == 202, answer
    expected = prompt.encode(charset, "replace").decode(charset)
    assert broker.specs[answer["requestId"]].prompt == expected


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        (CHINESE.encode("gbk"), "text/plain", "the field is not in utf-8; send UTF-8, or name"),
        (b"\xff" * 20, "text/plain; charset=gbk", "the field is not in gbk; send UTF-8"),
        (
            b"a" * 20,
            "text/plain; charset=punycode",
            "the field's charset 'punycode' is not supported",
        ),
        (b"a" * 20, "text/plain; charset=zip", "the field's charset 'zip' is not supported"),
        (
            b"a" * 20,
            "text/plain; charset=no-such",
            "the field's charset 'no-such' is not supported",
        ),
    ],
)
async def test_a_part_that_cannot_be_read_is_named_with_its_charset(
    front: Served, prompt: bytes, kind: str, message: str
) -> None:
    status, answer = await submit_prompt(front, prompt, kind)
    assert status == 422
    assert answer["error"]["field"] == "prompt"
    assert answer["error"]["message"].startswith(message)
