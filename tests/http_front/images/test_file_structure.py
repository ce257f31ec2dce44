"""Files that would keep a decoder busy for long are refused before they are decoded."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from http_front.images.file_structure import UnusableImageError, check_structure

FULL_SIZE = 20 << 20


def progressive(width_px: int, height_px: int, num_scans_added: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("RGB", (width_px, height_px), "teal").save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last_scan * num_scans_added + data[-2:]


def png_of_empty_chunks() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    chunk = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    return file.getvalue()[:33] + chunk * (FULL_SIZE // len(chunk))


BUSY_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans": (lambda: progressive(8192, 4800, 2_000), "JPEG with more than 100 scans"),
    "fill": (
        lambda: b"\xff\xd8" + b"\xff" * FULL_SIZE,
        "JPEG with 20971520 bytes between its segments; at most 65536",
    ),
    "scattered fill": (
        lambda: b"\xff\xd8\xff\xfe\0\2" + (bytes(60_000) + b"\xff\xfe\0\2") * 300,
        "JPEG with 120000 bytes between its segments",
    ),
    "segments": (
        lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * (FULL_SIZE // 4),
        "JPEG with more than 5000 segments",
    ),
    "chunks": (png_of_empty_chunks, "PNG with more than 100000 chunks"),
}


@pytest.mark.parametrize(("make", "message"), BUSY_FILES.values(), ids=BUSY_FILES)
def test_a_file_of_too_many_parts_is_refused(
    tmp_path: Path, make: Callable[[], bytes], message: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(make())
    with pytest.raises(UnusableImageError, match=message):
        check_structure(path)


@pytest.mark.parametrize(
    "data",
    [progressive(640, 480, 50), b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"no image"],
    ids=["progressive", "empty", "short JPEG", "short PNG", "text"],
)
def test_any_other_file_is_left_to_the_decoder(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    check_structure(path)
