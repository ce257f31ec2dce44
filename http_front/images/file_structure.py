"""Counts the parts of an image file, because a small file can keep a decoder busy for long.

A decoder reads a JPEG's segments and a PNG's chunks one by one, and goes over the whole image for
each scan of a progressive JPEG.
"""

import re
from pathlib import Path

MAX_SCANS = 100
"""Encoders write about 10."""
MAX_SEGMENTS = 5_000
MAX_FILL_BYTES = 1 << 16
"""Between the segments before the first scan; encoders write none."""
MAX_CHUNKS = 100_000
"""Encoders put 8 KiB or more into a chunk, and an image has at most 20 MiB."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# A marker that begins a segment, or the end of the image. In the data of a scan, 0xFF is followed
# by 0 or by a restart marker.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


class UnusableImageError(Exception):
    """Raised when an image is outside our limits. Its text is sent to the client."""


def check_structure(path: Path) -> None:
    """Read an image file up to its end or to the first limit that it exceeds.

    Raises:
        UnusableImageError: If it has more parts than any encoder writes.
    """
    data = path.read_bytes()
    if data.startswith(_JPEG):
        _check_jpeg(data)
    elif data.startswith(_PNG):
        _check_png(data)


def _check_jpeg(data: bytes) -> None:
    place, num_scans, num_fill = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(data, place)
        end = len(data) if marker is None else marker.start()
        num_fill += 0 if num_scans else end - place
        if num_fill > MAX_FILL_BYTES:
            raise UnusableImageError(
                f"the image is a JPEG with {num_fill} bytes between its segments; "
                f"at most {MAX_FILL_BYTES} are allowed"
            )
        if marker is None or data[end + 1] == _END_OF_IMAGE:
            return
        num_scans += data[end + 1] == _START_OF_SCAN
        if num_scans > MAX_SCANS:
            raise UnusableImageError(f"the image is a JPEG with more than {MAX_SCANS} scans")
        place = end + 2 + int.from_bytes(data[end + 2 : end + 4], "big")
    raise UnusableImageError(f"the image is a JPEG with more than {MAX_SEGMENTS} segments")


def _check_png(data: bytes) -> None:
    place = len(_PNG)
    for _ in range(MAX_CHUNKS):
        head = data[place : place + 8]
        if len(head) < 8 or head[4:] == b"IEND":
            return
        place += 12 + int.from_bytes(head[:4], "big")
    raise UnusableImageError(f"the image is a PNG with more than {MAX_CHUNKS} chunks")
