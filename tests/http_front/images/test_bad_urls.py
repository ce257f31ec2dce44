"""Image URLs that must not be fetched, sent to the whole running server."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from http_front.errors import FrontError
from http_front.images.fetch import ImageSource
from http_front.images.spool import open_spool
from tests.http_front.besieged import Besieged
from tests.http_front.images import near_urls
from tests.http_front.images.image_server import IMAGE_ADDRESS, http_answer
from tests.http_front.images.test_address_guard import VECTORS
from tests.http_front.vectors import GOOD_PICTURE, VALID_BODY, Case, cases, check_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def submit_url(besieged: Besieged, url: str) -> tuple[int, Any]:
    body = msgspec.json.decode(VALID_BODY) | {"image_url": url}
    return await besieged.front.post("/video/submit", body)


async def assert_refused(besieged: Besieged, url: str = "http://images.example.com/x.png") -> Any:
    status, answer = await submit_url(besieged, url)
    assert 400 <= status < 500, answer
    await besieged.assert_nothing_happened()
    besieged.assert_no_private_call()
    return answer["error"]


async def test_a_good_url_makes_a_job(besieged: Besieged) -> None:
    status, _ = await submit_url(besieged, "http://images.example.com/cat.png")
    assert status == 202
    assert len(besieged.images.heads) == 1
    head = besieged.images.heads[0].lower()
    assert b"accept-encoding: identity" in head
    assert b"cookie" not in head


@pytest.mark.parametrize("case", cases("url", "url"), ids=lambda case: case.id)
async def test_a_forbidden_url_opens_no_connection(besieged: Besieged, case: Case) -> None:
    status, answer = await submit_url(besieged, case.text)
    check_answer(case, status, answer)
    assert 400 <= status < 500
    await besieged.assert_nothing_happened()
    assert not besieged.connected
    besieged.assert_no_private_call()
    assert "secret" not in besieged.log + str(answer)


@pytest.mark.parametrize("url", near_urls.ALL)
async def test_more_spellings_are_refused_too(besieged: Besieged, url: str) -> None:
    await assert_refused(besieged, url)
    assert not besieged.connected


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_name_of_a_loopback_address_opens_no_connection(
    besieged: Besieged, address: str
) -> None:
    besieged.set_names({"loopback.example": [(address, besieged.private[address].port)]})
    error = await assert_refused(besieged, "http://loopback.example/x.png")
    assert error["code"] == "image_unavailable"
    assert address not in error["message"]


async def test_an_answer_does_not_tell_whether_an_internal_name_exists(besieged: Besieged) -> None:
    besieged.set_names({"intranet.example": [("10.0.0.1", 80)]})
    existing = await assert_refused(besieged, "http://intranet.example/x.png")
    assert existing == await assert_refused(besieged, "http://nothing.example/x.png")
    assert "could not be reached at a public address" in existing["message"]
    besieged.images.answer = (
        b"HTTP/1.1 302 Found\r\nLocation: http://intranet.example/\r\nContent-Length: 0\r\n\r\n"
    )
    assert await assert_refused(besieged) == existing


async def test_an_address_that_is_not_public_is_named_as_such(besieged: Besieged) -> None:
    """The client wrote it, so that it learns nothing."""
    error = await assert_refused(besieged, "http://10.0.0.1/x.png")
    assert error["message"] == "image_url leads to an address that is not public"


@pytest.mark.parametrize("address", VECTORS.refuse)
async def test_a_name_of_a_private_address_opens_no_connection(
    besieged: Besieged, address: str
) -> None:
    besieged.set_names({"name.example": [(address, 80)]})
    await assert_refused(besieged, "http://name.example/x.png")
    await assert_refused(besieged, f"http://{f'[{address}]' if ':' in address else address}/x.png")
    assert not besieged.connected


@pytest.mark.parametrize("private_first", [True, False])
async def test_a_name_that_changes_its_address_never_reaches_loopback(
    besieged: Besieged, private_first: bool
) -> None:
    loopback = ("127.0.0.1", besieged.private["127.0.0.1"].port)
    answers = [(IMAGE_ADDRESS, besieged.images.port), loopback]
    besieged.set_names({"rebind.example": answers[:: -1 if private_first else 1]})
    for _ in range(3):
        await submit_url(besieged, "http://rebind.example/x.png")
    besieged.assert_no_private_call()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0.0.0.0", "127\u30020\u30020\u30021", "[::ffff:127.0.0.1]", "[::1]"],
)
async def test_a_literal_never_reaches_a_listener_on_loopback(
    besieged: Besieged, host: str, tmp_path: Path
) -> None:
    # A literal passes no resolver, so its port must be in the URL: allow every port.
    source = ImageSource(ports=None)
    server = besieged.private["::1" if host == "[::1]" else "127.0.0.1"]
    with open_spool(tmp_path) as spool, pytest.raises(FrontError, match="not public"):
        await source.fetch(f"http://{host}:{server.port}/", spool)
    besieged.assert_no_private_call()


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "//127.0.0.1/x",
        "http://images.example.com:22/",
        "file:///etc/passwd",
        "ftp://images.example.com/",
        "http://user:secret@images.example.com/",
        "",
        "http://images.example.com/a b",
    ],
)
async def test_the_target_of_a_redirect_is_checked_by_the_same_rules(
    besieged: Besieged, location: str
) -> None:
    besieged.images.answer = (
        f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    await assert_refused(besieged)
    assert len(besieged.images.heads) == 1


@pytest.mark.parametrize("location", [*near_urls.LOOPBACK, *near_urls.PRIVATE])
async def test_a_redirect_to_a_private_address_is_refused_in_any_spelling(
    besieged: Besieged, location: str
) -> None:
    besieged.images.answer = (
        f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    await assert_refused(besieged)
    assert besieged.connected == [IMAGE_ADDRESS]


async def test_a_redirect_to_another_picture_is_followed(besieged: Besieged) -> None:
    async def redirect_once(writer: asyncio.StreamWriter) -> None:
        if len(besieged.images.heads) == 1:
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /b.png\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(http_answer(GOOD_PICTURE))
        await writer.drain()

    besieged.images.talk = redirect_once
    status, _ = await submit_url(besieged, "http://images.example.com/a.png")
    assert status == 202
    assert besieged.images.heads[1].startswith(b"GET /b.png ")


async def test_a_loop_of_redirects_ends(besieged: Besieged) -> None:
    besieged.images.answer = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"
    error = await assert_refused(besieged)
    assert error["message"].endswith("redirected more than 3 times")
    assert len(besieged.images.heads) == 4


@pytest.mark.parametrize("case", cases("fetch", "image-response"), ids=lambda case: case.id)
async def test_a_bad_response_from_the_image_server_is_refused(
    besieged: Besieged, case: Case
) -> None:
    besieged.images.answer = case.text.encode("latin-1")
    besieged.images.closes = False
    error = await assert_refused(besieged)
    assert "log in" not in error["message"]


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(GOOD_PICTURE, length=60),
        http_answer(GOOD_PICTURE, length=len(GOOD_PICTURE) + 1000),
        http_answer(GOOD_PICTURE, "401 Unauthorized"),
        http_answer(GOOD_PICTURE, "404 Not Found"),
        http_answer(GOOD_PICTURE, "500 Internal Server Error"),
        http_answer(GOOD_PICTURE).replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1),
        b"no HTTP at all\r\n\r\n",
        b"",
    ],
    ids=["cut", "short", "401", "404", "500", "compressed", "noise", "nothing"],
)
async def test_an_incomplete_or_failed_response_is_refused(
    besieged: Besieged, answer: bytes
) -> None:
    besieged.images.answer = answer
    await assert_refused(besieged)


async def test_an_endless_response_is_stopped_at_the_size_limit(besieged: Besieged) -> None:
    num_sent = 0

    async def pour(writer: asyncio.StreamWriter) -> None:
        nonlocal num_sent
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while True:
            writer.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
            await writer.drain()
            num_sent += 1

    besieged.images.talk = pour
    before = besieged.memory_bytes()
    error = await assert_refused(besieged)
    assert besieged.memory_bytes() - before < 64 << 20
    assert error["code"] == "image_too_large"
    assert num_sent < 40


async def test_a_slow_response_is_stopped_at_the_time_limit(besieged: Besieged) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer(b"", length=200_000))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)  # the server must be slow: that is the test

    besieged.images.talk = trickle
    async with asyncio.timeout(8):
        error = await assert_refused(besieged)
    assert "did not deliver the image within 3 s" in error["message"]


async def test_a_data_url_makes_a_job_without_a_connection(besieged: Besieged) -> None:
    url = "data:image/png;base64," + base64.b64encode(GOOD_PICTURE).decode()
    status, _ = await submit_url(besieged, url)
    assert status == 202
    assert not besieged.connected


async def test_a_data_url_with_broken_base64_is_refused(besieged: Besieged) -> None:
    error = await assert_refused(besieged, "data:image/png;base64,%%%")
    assert error["code"] == "image_url_forbidden"


async def test_two_image_urls_fetch_the_one_that_was_checked(besieged: Besieged) -> None:
    (case,) = [case for case in cases("json", "json-body") if case.id == "json-073-image"]
    async with besieged.front.session.post(
        besieged.front.url + "/video/submit",
        data=case.body,
        headers={"Content-Type": "application/json"},
    ) as response:
        assert response.status < 500
    besieged.assert_no_private_call()
