"""Image hosts as they are: redirects to signed URLs, compressed bodies, vague content types."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from http_front.errors import FrontError
from http_front.images.fetch import ImageSource
from http_front.images.spool import MAX_IMAGE_BYTES, Spool, open_spool
from tests.http_front.images.image_server import IMAGE_ADDRESS, ImageServer, http_answer
from tests.http_front.serving import picture


@pytest_asyncio.fixture
async def host() -> AsyncIterator[ImageServer]:
    async with ImageServer().listen(IMAGE_ADDRESS) as server:
        yield server


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with open_spool(tmp_path) as spool:
        yield spool


def source() -> ImageSource:
    return ImageSource(guard=lambda address: address == IMAGE_ADDRESS, ports=None)


async def fetch(host: ImageServer, spool: Spool, path: str = "/cat.png") -> bytes:
    await source().fetch(f"http://{IMAGE_ADDRESS}:{host.port}{path}", spool)
    return spool.path.read_bytes()


def encoded(body: bytes, encoding: str) -> bytes:
    return http_answer(body).replace(b"\r\n", f"\r\nContent-Encoding: {encoding}\r\n".encode(), 1)


SIGNED = (
    "/a%2Fb%7E/it%27s.png?X-Amz-Credential=AK%2F2026%2Fs3&Policy=x~y_%3A&sig=ab%3D%3D&n=a%20b"
    "&X-Amz-Security-Token=" + "k" * 3000
)


@pytest.mark.parametrize("is_relative", [True, False])
async def test_a_redirect_to_a_presigned_url_keeps_the_spelling_that_was_signed(
    host: ImageServer, spool: Spool, is_relative: bool
) -> None:
    """The signature covers the path and the query as they are written."""
    origin = "" if is_relative else f"http://{IMAGE_ADDRESS}:{host.port}"

    async def redirect_once(writer: asyncio.StreamWriter) -> None:
        if len(host.heads) == 1:
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {origin}{SIGNED}\r\n\r\n".encode())
        else:
            writer.write(http_answer(picture()))
        await writer.drain()

    host.talk = redirect_once
    assert await fetch(host, spool) == picture()
    assert host.heads[1].split(b" ")[1].decode() == SIGNED


async def test_a_presigned_url_is_sent_as_it_is_written(host: ImageServer, spool: Spool) -> None:
    host.answer = http_answer(picture())
    signed = SIGNED.partition("&X-Amz-Security")[0]
    await fetch(host, spool, signed)
    assert host.heads[0].split(b" ")[1].decode() == signed


@pytest.mark.parametrize("kind", ["binary/octet-stream", "application/octet-stream", "text/plain"])
async def test_the_content_type_does_not_matter(host: ImageServer, spool: Spool, kind: str) -> None:
    host.answer = http_answer(picture(), kind=kind)
    assert await fetch(host, spool) == picture()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(picture(1280, 720, "JPEG")), "gzip"),
        (gzip.compress(picture(1280, 720, "JPEG")), "x-gzip"),
        (zlib.compress(picture(1280, 720, "JPEG")), "deflate"),
        (picture(1280, 720, "JPEG"), "identity"),
    ],
)
async def test_a_compressed_body_is_decompressed(
    host: ImageServer, spool: Spool, body: bytes, encoding: str
) -> None:
    host.answer = encoded(body, encoding)
    assert await fetch(host, spool) == picture(1280, 720, "JPEG")


@pytest.mark.parametrize(
    ("body", "encoding", "message"),
    [
        (gzip.compress(bytes(MAX_IMAGE_BYTES + 1)), "gzip", "the image has more than 20971520"),
        (gzip.compress(picture())[:-4], "gzip", "responded with an incomplete compressed body"),
        (picture(), "gzip", "responded with a damaged compressed body"),
        (picture(), "br", "responded with an unknown Content-Encoding"),
    ],
    ids=["bomb", "cut", "damaged", "unknown"],
)
async def test_a_compressed_body_that_cannot_be_used_is_refused(
    host: ImageServer, spool: Spool, body: bytes, encoding: str, message: str
) -> None:
    host.answer = encoded(body, encoding)
    with pytest.raises(FrontError, match=message):
        await fetch(host, spool)


async def test_a_host_learns_what_the_client_is_and_its_status_is_passed_on(
    host: ImageServer, spool: Spool
) -> None:
    """Wikimedia answers a client without a descriptive User-Agent with 403."""
    host.answer = http_answer(b"no", "403 Forbidden")
    with pytest.raises(FrontError, match="responded with status 403"):
        await fetch(host, spool)
    head = host.heads[0].decode()
    assert "User-Agent: wan-ranks/0.1 (image-to-video server" in head
    assert "Accept: image/jpeg, image/png, image/webp, */*" in head
    assert "Accept-Encoding: identity" in head


async def test_slow_hosts_of_one_owner_do_not_delay_another(
    host: ImageServer, spool: Spool, tmp_path: Path
) -> None:
    images, is_called = source(), asyncio.Event()

    async def say_nothing(writer: asyncio.StreamWriter) -> None:
        is_called.set()
        await writer.wait_closed()

    async with ImageServer().listen(IMAGE_ADDRESS) as silent:
        silent.talk = say_nothing
        host.answer = http_answer(picture())
        url = f"http://{IMAGE_ADDRESS}:{silent.port}/"
        slow = [
            asyncio.create_task(images.fetch(url, Spool(tmp_path / str(number)), "ann"))
            for number in range(40)
        ]
        await is_called.wait()
        async with asyncio.timeout(3):
            await images.fetch(f"http://{IMAGE_ADDRESS}:{host.port}/", spool, "ben")
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
