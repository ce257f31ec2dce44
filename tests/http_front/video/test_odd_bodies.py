"""More bad bodies, sent to the whole running server; `bad_inputs.json` has one of each kind."""

import json
from typing import Any

import pytest
from yarl import URL

from tests.http_front.besieged import Besieged
from tests.http_front.serving import send_raw
from tests.http_front.vectors import VALID_BODY
from tests.http_front.video.test_bad_bodies import JSON, submit_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

OUTSIDE: dict[str, list[Any]] = {
    "image_size": [
        *(
            "1280,720",
            "1280*720p",
            "360p",
            "1280*720*1",
            "-1280*720",
            "0*0",
            "*",
        ),
        *("+1280*720", "1280.0*720", "\uff11280*720", "99999*99999", "64*14416"),
        *("1_280*720", "1280**720", [1280, 720]),
    ],
    "num_frames": [23, 122, 81.5, "81.5", "", True, [81], {}, 1e3, -81],
    "infer_steps": [19, 101, 30.5, " 30", False, 2**64, -(2**63)],
    "guidance_scale": [0.99, 20.01, "nan", "inf", True, -3.0, 1e308, [3.0]],
    "sample_shift": [0.0, -1.0, 100.1, "0", 1e308, True],
    "seed": [-2, 2**31, 1.5, "x", True, [], 2**63, 2**64, -(2**64)],
    "cfg_size": [0, 3, "3", True, 1.5],
    "ulysses_size": [0, 3, 65, 2**40, "65", True],
    "end_step": [-1, 10_001, "37.5"],
    "use_attentioncache": [2, -1, "yes", []],
    "vae_parallel": [2, "no", []],
    "sample_solver": ["UNIPC", "unipc ", "", 1, ["unipc"]],
    "prompt": [
        *("a" * 9, "a" * 501, "\ud800 and some more", "\t" * 20, "\u3000" * 20, "\0" * 20),
        *("\u2003\u00a0" * 10, {}),
    ],
    "negative_prompt": ["a" * 501, "\0", "\udfff", 1, []],
    "priority": [-11, 11, 0.5, "11", True, []],
    "callback_url": ["", "x", "http://user@a/", "ftp://a/", 1, []],
    "image_url": [None, 1, [], {}, "", ["http://images.example.com/"]],
}
"""Invalid values of each field, most of them just outside its range."""
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n%s\r\n'
SLOW_TO_PARSE: dict[str, tuple[str, bytes, int]] = {
    "a preamble of line ends": (FORM, b"\n" * (1 << 20), 1 << 16),
    "a preamble of blank lines": (FORM, b"\r\n" * (1 << 19), 1 << 16),
    "a preamble without an end": (FORM, b"x" * (1 << 20), 1 << 16),
    "a preamble in single bytes": (FORM, b"\n" * 100_000, 1),
    "many parts": (FORM, b"".join(PART % (b"f%d" % n, b"", b"1") for n in range(64)), 1 << 16),
    "many heads": (FORM, PART % (b"f", b"X: y\r\n" * 5000, b""), 1 << 16),
    "base64 with long gaps": (
        FORM,
        PART % (b"image", b"Content-Transfer-Encoding: base64\r\n", (b"a" + b"\n" * 65_000) * 30),
        1 << 16,
    ),
    "an image in single bytes": (FORM, PART % (b"image", b"", b"x" * 100_000), 1),
    "JSON in single bytes": ("application/json", b'{"prompt":"%s"}' % (b"x" * 60_000), 1),
    "a form larger than any": (FORM, PART % (b"image", b"", bytes(22 << 20)), 1 << 20),
}
"""By name: Content-Type, body, and the size of the chunks that it is sent in."""
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp037"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("parameter", ["", "; charset=utf-8", "; charset={}"])
async def test_json_must_be_utf_8_whatever_the_content_type_says(
    besieged: Besieged, encoding: str, parameter: str
) -> None:
    body = VALID_BODY.replace("wooden", "wööden").encode(encoding)
    headers = {"Content-Type": "application/json" + parameter.format(encoding)}
    status, answer = await submit_bytes(besieged, body, headers)
    assert status in (400, 415), answer
    await besieged.assert_nothing_happened()


@pytest.mark.parametrize(
    "kind",
    [
        *("text/json", "application/x-json", "application/vnd.api+json", "application/json5"),
        *("application/xml", "multipart/mixed; boundary=b", "multipart/form-data; boundary="),
        *("application/x-ndjson", "*/*", "json", "application", ";", "application/json, text/html"),
        *("image/png", "application/octet-stream", "application/msgpack", "text/html"),
    ],
)
@pytest.mark.parametrize("path", ["/video/submit", "/v1/videos", "/video/status"])
async def test_another_content_type_is_refused(besieged: Besieged, path: str, kind: str) -> None:
    async with besieged.front.session.post(
        besieged.front.url + path, data=VALID_BODY.encode(), headers={"Content-Type": kind}
    ) as response:
        assert response.status in (400, 415, 422), await response.text()
    await besieged.assert_nothing_happened()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "compress", "x", "gzip, br"])
async def test_a_content_encoding_is_refused(besieged: Besieged, coding: str) -> None:
    status, _ = await submit_bytes(
        besieged, VALID_BODY.encode(), {**JSON, "Content-Encoding": coding}
    )
    assert status == 415
    await besieged.assert_nothing_happened()


@pytest.mark.parametrize(
    "text",
    [
        *(
            "{",
            "}",
            "{}",
            "[{}]",
            "{,}",
            "{'prompt': 1}",
            '{"prompt"}',
            "true",
            "\0",
            "{}{}",
            "{}x",
        ),
        *('{"prompt": "a", }', '{"a": 01}', '{"a": .5}', '{"a": 1.}', '{"a": +1}', '{"a": 0x10}'),
        *('{"a": "\\x"}', '{"a": "\\u12"}', '{"a": "\n"}', "{/* */}", "// {}", '{"a": tru}', "-"),
        *(
            '{"a": 1e99999}',
            '{"a": -Infinity}',
            '{"a": NaN}',
            '{"\\u0000": 1}',
            '{"": 1}',
            "\u2028",
        ),
        *(
            '{"a":' * 5000,
            "[" * 60_000,
            "[" * 30_000 + "]" * 30_000,
            '{"a":' * 9000 + "1" + "}" * 9000,
        ),
        "9" * 60_000,
    ],
    ids=lambda text: text[:12],
)
async def test_broken_json_is_refused(besieged: Besieged, text: str) -> None:
    for path in ("/video/submit", "/v1/videos", "/video/status", "/video/cancel", "/video/delete"):
        async with besieged.front.session.post(
            besieged.front.url + path, data=text.encode(), headers=JSON
        ) as response:
            assert 400 <= response.status < 500, (path, await response.text())
    await besieged.assert_nothing_happened()


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in OUTSIDE.items() for value in values],
    ids=lambda value: ascii(value)[:24],
)
async def test_an_invalid_value_is_refused(besieged: Besieged, field: str, value: object) -> None:
    body = json.dumps(json.loads(VALID_BODY) | {field: value}).encode()
    status, answer = await submit_bytes(besieged, body)
    assert status in (400, 422), answer
    await besieged.assert_nothing_happened()


@pytest.mark.parametrize(
    "job_id",
    [
        *("0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n", " " + "0" * 32, "g" * 32, "0" * 16),
        *(
            "\u0660" * 32,
            "\uff10" * 32,
            "0" * 31 + "\u0000",
            "-" + "0" * 31,
            "..%2f" + "0" * 27,
            "a/../b",
        ),
    ],
    ids=ascii,
)
async def test_a_malformed_id_is_404(besieged: Besieged, job_id: str) -> None:
    front = besieged.front
    for path in ("/video/status", "/video/cancel", "/video/delete"):
        assert (await front.post(path, {"requestId": job_id}))[0] == 404
    for url in (
        URL(front.url) / "v1/videos" / job_id,
        URL(front.url) / "v1/videos" / job_id / "content",
        URL(front.url) / "videos" / f"{job_id}.mp4",
        URL(front.url) / "video/progress" % {"requestId": job_id},
        URL(front.url) / "video/list" % {"after": job_id},
    ):
        async with front.session.get(url) as response:
            assert response.status in (400, 404), url


@pytest.mark.parametrize("name", SLOW_TO_PARSE)
@pytest.mark.parametrize("path", ["/video/submit", "/v1/videos", "/live"])
async def test_a_body_in_chunks_is_limited_and_delays_no_other_request(
    besieged: Besieged, path: str, name: str
) -> None:
    """The server measures its longest stretch of work: see `besieged_server`."""
    kind, body, chunk_bytes = SLOW_TO_PARSE[name]
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {besieged.key}\r\n"
        f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    answer = await send_raw(
        besieged.front.port, head.encode() + sent + b"0\r\n\r\n", head_only=True
    )
    status = int(answer.split()[1])
    assert 400 <= status < 500, answer
    if "larger" in name and path != "/live":
        assert status == 413
    await besieged.assert_nothing_happened()
