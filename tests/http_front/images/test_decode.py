import asyncio
import contextlib
import io
import os
import resource
import signal
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image, ImageCms

from broker.store.folder import FolderStore
from http_front.errors import FrontError
from http_front.files.stored_files import StoredFiles
from http_front.images import decode_worker as image_worker
from http_front.images.decode import ImageDecoder
from tests.http_front.images.test_file_structure import BUSY_FILES
from tests.http_front.serving import picture


@pytest_asyncio.fixture
async def decoder(tmp_path: Path) -> AsyncIterator[ImageDecoder]:
    store = FolderStore(tmp_path)
    store.prepare()
    (tmp_path / "inputs" / ".partial").mkdir()
    decoder = ImageDecoder(StoredFiles(store))
    yield decoder
    await decoder.close()


async def store(decoder: ImageDecoder, folder: Path, data: bytes) -> Image.Image:
    """Decode and store a file; return the stored image."""
    source = folder / "source"
    source.write_bytes(data)
    name = (await decoder.store(source)).name
    with Image.open(folder / "inputs" / name) as image:
        image.load()
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((63, 64), "the image has 63x64 pixels; each side must have 64 to 8192"),
        ((64, 8193), "the image has 64x8193 pixels; each side must have 64 to 8192"),
        ((8000, 5001), "the image has 8000x5001 pixels; at most 40000000 in total are allowed"),
        (
            (64, 513),
            "the image has 64x513 pixels; the longer side may be at most 8 times the shorter",
        ),
    ],
)
async def test_a_size_outside_the_limits_is_refused_with_its_numbers(
    decoder: ImageDecoder, tmp_path: Path, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(FrontError) as caught:
        await store(decoder, tmp_path, encoded(Image.new("1", size)))
    assert caught.value.message == message


@pytest.mark.parametrize("size", [(64, 64), (64, 512), (8192, 1024)])
async def test_a_size_at_the_limits_is_accepted(
    decoder: ImageDecoder, tmp_path: Path, size: tuple[int, int]
) -> None:
    image = await store(decoder, tmp_path, encoded(Image.new("1", size)))
    assert image.size == size


def transparent() -> Image.Image:
    return Image.new("RGBA", (64, 64), (255, 0, 0, 0))


def palette_with_transparency() -> bytes:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return encoded(image, transparency=1)


@pytest.mark.parametrize(
    ("make", "pixel"),
    [
        (lambda: encoded(transparent()), (255, 255, 255)),
        (lambda: encoded(transparent(), "WEBP", lossless=True), (255, 255, 255)),
        (lambda: encoded(Image.new("LA", (64, 64), (9, 128))), (132, 132, 132)),
        (palette_with_transparency, (255, 255, 255)),
        (lambda: encoded(Image.new("I;16", (64, 64), 0x80FF)), (128, 128, 128)),
        (lambda: encoded(Image.new("1", (64, 64), 1)), (255, 255, 255)),
        (lambda: encoded(Image.new("L", (64, 64), 77)), (77, 77, 77)),
    ],
    ids=["alpha", "webp", "grey-alpha", "palette", "16-bit", "1-bit", "grey"],
)
async def test_every_mode_becomes_opaque_8_bit_rgb(
    decoder: ImageDecoder, tmp_path: Path, make: Callable[[], bytes], pixel: tuple[int, ...]
) -> None:
    image = await store(decoder, tmp_path, make())
    assert image.mode == "RGB"
    found = image.getpixel((5, 5))
    assert isinstance(found, tuple)
    assert max(abs(a - b) for a, b in zip(found, pixel, strict=True)) <= 1


async def test_a_colour_profile_is_applied_and_all_metadata_dropped(
    decoder: ImageDecoder, tmp_path: Path
) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    source = Image.new("RGB", (64, 64), (120, 60, 30))
    data = encoded(source, "JPEG", icc_profile=lab.tobytes(), comment=b"hello", quality=95)
    image = await store(decoder, tmp_path, data)
    assert image.getpixel((5, 5)) != (120, 60, 30)
    assert not {"exif", "icc_profile", "xmp", "comment"} & image.info.keys()


async def test_a_broken_colour_profile_is_ignored(decoder: ImageDecoder, tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (64, 64), (1, 2, 3)), icc_profile=b"no profile")
    image = await store(decoder, tmp_path, data)
    assert image.getpixel((5, 5)) == (1, 2, 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


async def test_only_the_first_frame_of_ten_thousand_is_decoded(
    decoder: ImageDecoder, tmp_path: Path
) -> None:
    rows = zlib.compress(b"\0" + bytes(8) + (b"\0" + bytes(8)) * 63)
    control = struct.pack(">IIIIHHBB", 64, 64, 0, 0, 1, 100, 0, 0)
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 1, 0, 0, 0, 0)),
        chunk(b"acTL", struct.pack(">II", 10_000, 0)),
        chunk(b"fcTL", struct.pack(">I", 0) + control),
        chunk(b"IDAT", rows),
    ]
    for number in range(1, 9_999 * 2, 2):
        parts.append(chunk(b"fcTL", struct.pack(">I", number) + control))
        parts.append(chunk(b"fdAT", struct.pack(">I", number + 1) + rows))
    parts.append(chunk(b"IEND", b""))
    async with asyncio.timeout(5):
        image = await store(decoder, tmp_path, b"".join(parts))
    assert image.size == (64, 64)


def children() -> list[int]:
    """Return the pids of the running decoders."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"http_front.images.decode_worker" in words and str(os.getpid()).encode() in words:
                found.append(int(folder.name))
    return found


async def test_a_decoder_stays_warm_and_is_replaced_when_it_dies(
    decoder: ImageDecoder, tmp_path: Path
) -> None:
    await store(decoder, tmp_path, picture())
    (first,) = children()
    await store(decoder, tmp_path, picture())
    assert children() == [first]
    os.kill(first, signal.SIGSTOP)
    decoding = asyncio.create_task(store(decoder, tmp_path, picture()))
    await asyncio.sleep(0)  # now the child has the image
    os.kill(first, signal.SIGKILL)
    with pytest.raises(FrontError, match="cannot be decoded"):
        await decoding
    await store(decoder, tmp_path, picture())
    assert first not in children()


async def test_a_hung_decoder_is_replaced(tmp_path: Path, decoder: ImageDecoder) -> None:
    decoder = ImageDecoder(StoredFiles(FolderStore(tmp_path)), wall_limit_s=5.0)
    await store(decoder, tmp_path, picture())
    os.kill(children()[0], signal.SIGSTOP)
    with pytest.raises(FrontError, match="cannot be decoded"):
        await store(decoder, tmp_path, picture())
    assert not children()
    await store(decoder, tmp_path, picture())
    await decoder.close()


async def test_close_ends_every_decoder(decoder: ImageDecoder, tmp_path: Path) -> None:
    await asyncio.gather(*(store(decoder, tmp_path, picture()) for _ in range(8)))
    assert len(children()) == 2
    await decoder.close()
    assert not children()


async def test_a_decoder_has_memory_and_cpu_limits(decoder: ImageDecoder, tmp_path: Path) -> None:
    await store(decoder, tmp_path, picture())
    limits = resource.prlimit(children()[0], resource.RLIMIT_AS)
    assert limits[0] == image_worker.MEMORY_LIMIT_BYTES
    limits = resource.prlimit(children()[0], resource.RLIMIT_CPU)
    assert limits[0] <= image_worker.CPU_LIMIT_S + 1


async def test_images_that_take_long_do_not_delay_another_owner(
    decoder: ImageDecoder, tmp_path: Path
) -> None:
    """One owner must not be able to keep every decoder busy."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # a decoder that opens it waits for a writer
    slow = [asyncio.create_task(decoder.store(pipe, "ann")) for _ in range(10)]
    source = tmp_path / "source"
    source.write_bytes(picture())
    await asyncio.sleep(0)  # now they are ahead
    async with asyncio.timeout(10):
        await decoder.store(source, "ben")
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)


@pytest.mark.parametrize("kind", ["fill", "segments", "chunks"])
async def test_three_corrupt_images_at_once_do_not_delay_a_good_one(
    decoder: ImageDecoder, tmp_path: Path, kind: str
) -> None:
    good, corrupt = tmp_path / "good", tmp_path / "corrupt"
    good.write_bytes(picture())
    corrupt.write_bytes(BUSY_FILES[kind][0]())
    await decoder.store(good, "ann")  # starts a child process, which takes its time
    async with asyncio.timeout(5):  # 20 s and more without the limits
        slow = [asyncio.create_task(decoder.store(corrupt, "ann")) for _ in range(3)]
        await decoder.store(good, "ann")
        await asyncio.wait(slow)
    assert all(isinstance(task.exception(), FrontError) for task in slow)
