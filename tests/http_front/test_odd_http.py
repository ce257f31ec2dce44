"""Requests that HTTP parsers disagree about, sent to the whole running server."""

import re

import pytest

from tests.http_front.besieged import Besieged
from tests.http_front.serving import send_raw
from tests.http_front.test_bad_http import fill

pytestmark = pytest.mark.asyncio(loop_scope="module")

ODD_HEADS = [
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    "Transfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\x0bchunked\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Content-Length: 5, 6\r\n",
    "Content-Length: \uff15\r\n".encode().decode("latin-1"),
    "Content-Length: 1_0\r\n",
    "Content-Length: 5.0\r\n",
    "Content-Length: \r\n",
    "Content-Length: 99999999999999999999\r\n",
    "X-A: b\r\n continued\r\nContent-Length: 5\r\n",
    "X-A\x00: b\r\nContent-Length: 5\r\n",
    "X-A: b\x00c\r\nContent-Length: 5\r\n",
    "X A: b\r\nContent-Length: 5\r\n",
    ": b\r\nContent-Length: 5\r\n",
    "no colon\r\nContent-Length: 5\r\n",
    "Host: evil.example\r\nContent-Length: 5\r\n",
    "Expect: something\r\nContent-Length: 5\r\n",
    "Content-Encoding: gzip\r\nContent-Length: 5\r\n",
    "Origin: http://evil.example\r\nContent-Length: 5\r\n",
]
ODD_LINES = [
    "POST {{SUBMIT}} HTTP/1.2",
    "POST {{SUBMIT}} HTTP/0.9",
    "POST {{SUBMIT}} HTTP/2.0",
    "POST {{SUBMIT}} HTTP/11.1",
    "POST {{SUBMIT}} http/1.1",
    "POST {{SUBMIT}}",
    "POST  {{SUBMIT}} HTTP/1.1",
    "POST\t{{SUBMIT}} HTTP/1.1",
    "POST {{SUBMIT}}\x00 HTTP/1.1",
    "POST {{SUBMIT}} x HTTP/1.1",
    "POST ../../video/submit HTTP/1.1",
    "POST //evil.example/video/submit HTTP/1.1",
    "POST http://evil.example:1/video/submit HTTP/1.1",
    "POST * HTTP/1.1",
    "CONNECT 127.0.0.1:22 HTTP/1.1",
    "PRI * HTTP/2.0",
    "P\x7fST {{SUBMIT}} HTTP/1.1",
    "",
]


def odd(line: str, head: str) -> str:
    return (
        f"{line}\r\nHost: {{{{HOST}}}}\r\n{{{{AUTH}}}}Content-Type: application/json\r\n"
        f"Connection: close\r\n{head}\r\n0\r\n\r\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        *(odd("POST {{SUBMIT}} HTTP/1.1", head) for head in ODD_HEADS),
        *(odd(line, "Content-Length: 5\r\n") for line in ODD_LINES),
        odd("POST {{SUBMIT}} HTTP/1.1", "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
        odd("POST {{SUBMIT}} HTTP/1.1", "Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n"),
        odd("POST {{SUBMIT}} HTTP/1.1", "Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n"),
        odd("POST {{SUBMIT}} HTTP/1.1", "Transfer-Encoding: chunked\r\n\r\n2\n{}\n"),
        odd("POST {{SUBMIT}} HTTP/1.1", f"Transfer-Encoding: chunked\r\n\r\n{'f' * 40}\r\n"),
        odd("POST {{SUBMIT}} HTTP/1.1", "Content-Length: 5\r\n").replace("\r\n", "\n"),
        odd("POST {{SUBMIT}} HTTP/1.1", "Content-Length: 5\r\n").replace("\r\n", "\r"),
        odd("POST {{SUBMIT}} HTTP/1.1", "Content-Length: 5\r\n").replace("Host", "X-Host"),
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "x" * 100,
    ],
    ids=lambda text: ascii(text)[-90:-12],
)
async def test_a_request_that_parsers_disagree_about_makes_no_job_and_no_5xx(
    besieged: Besieged, text: str
) -> None:
    data = await send_raw(besieged.front.port, fill(besieged, text).encode("latin-1"), ends=True)
    statuses = re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)
    assert len(statuses) <= 1, "one request was read as two"
    assert all(400 <= int(status) < 500 for status in statuses), data
    assert b"Traceback" not in data
    await besieged.assert_nothing_happened()
