import asyncio
import json
import re

import pytest

from tests.http_front.besieged import Besieged
from tests.http_front.serving import PROMPT, send_raw
from tests.http_front.vectors import VALID_BODY, Case, cases

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW = [
    case
    for case in cases("http", "http-raw")
    if not case.id.startswith("http-104")  # about API keys
    and case.id not in ("http-085", "http-087")  # never complete: see the test of slow clients
]

KEYS = [case for case in cases("http", "http-raw") if case.id.startswith("http-104")]


async def raw(
    besieged: Besieged, text: str, job_id: str = "0" * 32, *, head_only: bool = False
) -> tuple[int, str]:
    """Send the text of a case; return the status and the whole response."""
    text = fill(besieged, text, job_id)
    data = await send_raw(besieged.front.port, text.encode("latin-1"), head_only=head_only)
    answer = data.decode("latin-1")
    found = re.match(r"HTTP/1\.[01] (\d{3})", answer)
    assert found, answer
    return int(found[1]), answer


def fill(besieged: Besieged, text: str, job_id: str = "0" * 32) -> str:
    """Fill in the placeholders of a case."""
    return (
        text.replace("{{SUBMIT}}", "/video/submit")
        .replace("{{HOST}}", f"127.0.0.1:{besieged.front.port}")
        .replace("{{AUTH}}", f"Authorization: Bearer {besieged.key}\r\n")
        .replace("{{KEY}}", besieged.key)
        .replace("{{WS}}", f"/video/progress?requestId={job_id}")
        .replace("{{VALIDLEN}}", str(len(VALID_BODY)))
        .replace("{{VALID}}", VALID_BODY)
    )


@pytest.mark.parametrize("case", RAW, ids=lambda case: case.id)
async def test_bad_http_is_refused_and_the_connection_closed(
    besieged: Besieged, case: Case
) -> None:
    status, answer = await raw(besieged, case.text)
    assert 400 <= status < 500
    assert "Traceback" not in answer
    assert "echo-me" not in answer
    # The message is ours, not the parser's.
    assert "reading" not in answer
    assert "b'" not in answer
    assert case.text.startswith("HEAD") or '{"error":{"code":' in answer
    if "with an Allow header" in case.expect:
        assert status == 405
        assert "\r\nAllow: POST\r\n" in answer
    if "415" in case.expect:
        assert status in (400, 415)
    await besieged.assert_nothing_happened()
    assert await besieged.front.get("/live") == (200, {"status": "alive"})


@pytest.mark.parametrize(
    "lines", ["GET /v1/videos?status={long} HTTP/1.1", "GET /v1/videos HTTP/1.1\r\nX-A: {long}"]
)
async def test_a_line_that_is_too_long_is_refused_in_the_terms_of_both_apis(
    besieged: Besieged, lines: str
) -> None:
    head = lines.format(long="a" * 9000)
    status, answer = await raw(besieged, f"{head}\r\nHost: {{{{HOST}}}}\r\n\r\n")
    error = json.loads(answer.partition("\r\n\r\n")[2])["error"]
    assert status == 400
    assert error == {
        "code": "invalid_body",
        "message": "the address or a header of the request is longer than 8190 bytes",
        "field": None,
        "type": "invalid_request_error",
        "param": None,
    }


@pytest.mark.parametrize("case", cases("http", "gzip-body-base64"), ids=lambda case: case.id)
async def test_a_compressed_body_is_not_unpacked(besieged: Besieged, case: Case) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with besieged.front.session.post(
        besieged.front.url + "/video/submit", data=case.body, headers=headers
    ) as response:
        assert response.status == 415
    await besieged.assert_nothing_happened()


async def test_slow_heads_and_bodies_time_out(besieged: Besieged) -> None:
    head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{besieged.front.port}\r\nX-A: b\r\n"
    half_body = (
        f"POST /video/submit HTTP/1.1\r\nHost: 127.0.0.1:{besieged.front.port}\r\n"
        f"Authorization: Bearer {besieged.key}\r\n"
        'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"prompt":'
    )
    async with asyncio.timeout(20):
        slow = [trickle(besieged, head)] + [
            send_raw(besieged.front.port, text.encode()) for text in [head] * 200 + [half_body]
        ]
        waiting = asyncio.gather(*slow)
        assert (await besieged.front.get("/live"))[0] == 200
        answers = await waiting
    assert answers[-1].startswith(b"HTTP/1.1 408 ")
    await besieged.assert_nothing_happened()


async def trickle(besieged: Besieged, text: str) -> bytes:
    """Send a byte every half second until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", besieged.front.port)
    received = asyncio.create_task(reader.read())
    try:
        for character in text:
            writer.write(character.encode())
            await asyncio.wait([received], timeout=0.5)
            if received.done():
                break
        return await received
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_two_hundred_headers_are_too_many(besieged: Besieged) -> None:
    headers = "".join(f"X-{number}: a\r\n" for number in range(200))
    status, _ = await raw(besieged, f"GET / HTTP/1.1\r\nHost: {{{{HOST}}}}\r\n{headers}\r\n")
    assert 400 <= status < 500


@pytest.mark.parametrize("case", cases("http", "video-name"), ids=lambda case: case.id)
async def test_a_bad_video_name_opens_no_file(besieged: Besieged, case: Case) -> None:
    job_id = "d" * 32
    (besieged.front.videos / f"{job_id}.mp4.tmp").write_bytes(b"half")
    name = case.text.replace("{{JOB}}", job_id)
    head = f"GET /videos/{name} HTTP/1.1\r\nHost: {{{{HOST}}}}\r\n{{{{AUTH}}}}"
    status, answer = await raw(besieged, head + "Connection: close\r\n\r\n")
    assert status in (400, 404, 414)
    assert "root:" not in answer
    assert "half" not in answer


@pytest.mark.parametrize("case", cases("websocket", "http-raw"), ids=lambda case: case.id)
async def test_a_page_of_another_site_gets_no_websocket(besieged: Besieged, case: Case) -> None:
    job_id = await besieged.front.submit()
    status, answer = await raw(besieged, case.text, job_id, head_only=True)
    assert status == (101 if case.id.endswith("none") else 403), answer


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "", "[", "a b"),
        *("evil.example@127.0.0.1", "127.0.0.1/evil", "127.0.0.1?evil", "127.0.0.1#evil"),
    ],
)
async def test_a_foreign_host_header_is_refused(besieged: Besieged, host: str) -> None:
    status, _ = await raw(
        besieged, f"GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    assert status in (400, 403)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Origin: http://{{HOST}}", "Origin: http://evil.example"), 403),
        (("Content-Encoding: identity", "Content-Encoding: gzip"), 415),
    ],
)
async def test_the_second_of_two_headers_counts_as_well(
    besieged: Besieged, headers: tuple[str, ...], status: int
) -> None:
    lines = "\r\n".join(("GET /live HTTP/1.1", "Host: {{HOST}}", *headers, "Connection: close"))
    assert (await raw(besieged, f"{lines}\r\n\r\n"))[0] == status


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8088", "[::1]:8088"])
async def test_every_loopback_name_is_accepted(besieged: Besieged, host: str) -> None:
    status, _ = await raw(
        besieged, f"GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    assert status == 200


async def test_a_form_from_another_site_makes_no_job(besieged: Besieged) -> None:
    async with besieged.front.session.post(
        besieged.front.url + "/video/submit",
        json={"prompt": PROMPT},
        headers={"Origin": "http://evil.example"},
    ) as response:
        assert response.status == 403
        assert (await response.json())["error"]["code"] == "forbidden"


async def test_an_unknown_route_is_404_with_an_error_body(besieged: Besieged) -> None:
    status, answer = await besieged.front.get("/nothing/here")
    assert (status, answer["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("case", KEYS, ids=lambda case: case.id)
async def test_a_malformed_authorization_header_is_unauthorized(
    besieged: Besieged, case: Case
) -> None:
    status, answer = await raw(besieged, case.text)
    # The case with a valid key makes a job.
    expected = {"http-104-space": {202}, "http-104-10kb": {400, 401, 431}}
    assert status in expected.get(case.id, {401})
    for text in (answer, besieged.log):
        assert "kkkkk" not in text
        assert besieged.key not in text
    if status != 202:
        await besieged.assert_nothing_happened()
