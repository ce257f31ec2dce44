"""The child that decodes: `python -m http_front.image_worker PARENT_PID`.

It reads one `DecodeImage` a line and writes one outcome a line. It is limited in memory and
processor time, because the files come from strangers and decoders have faults.
"""

import errno
import hashlib
import io
import os
import resource
import sys
import zlib
from pathlib import Path

import msgspec
from PIL import Image, ImageCms, UnidentifiedImageError

from broker.child import die_with_parent
from broker.log import configure_logging
from http_front.image_decode import (
    DecodeImage,
    ImageDecoded,
    ImageRefused,
    NoSpaceLeft,
    Outcome,
)

MIN_SIDE_PX = 64
MAX_SIDE_PX = 8192
MAX_PIXELS = 40_000_000
MAX_ASPECT = 8
MEMORY_LIMIT_BYTES = 2 << 30
FILE_LIMIT_BYTES = 256 << 20
CPU_LIMIT_S = 10

_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusableImageError(Exception):
    """Raised when a picture is outside our limits; its text is for the client."""


def main() -> None:
    """Serve until the parent closes the pipe."""
    configure_logging("image-worker", "text")
    die_with_parent(int(sys.argv[1]))
    _limit()
    orders = msgspec.json.Decoder(DecodeImage)
    for line in sys.stdin.buffer:
        _allow_cpu_time()
        outcome = _serve(orders.decode(line))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


def _serve(order: DecodeImage) -> Outcome:
    target = Path(order.target)
    try:
        picture = decode(Path(order.source))
        return ImageDecoded(sha256=save(picture, target))
    except UnusableImageError as error:
        return ImageRefused(reason=str(error))
    except Exception as error:  # noqa: BLE001 - decoders raise every type there is
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpaceLeft()
        return ImageRefused(reason="the image cannot be decoded")


def decode(path: Path) -> Image.Image:
    """Return the first frame of the picture in a file: upright, sRGB, opaque.

    Raises:
        UnusableImageError: If its size is outside the limits; known before anything is decoded.
        Exception: Whatever Pillow makes of a bad file.
    """
    with _open(path) as image:
        _check_size(*image.size)
        image.load()
        picture = _to_rgb(image)
        turn = _UPRIGHT.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def save(picture: Image.Image, target: Path) -> str:
    """Write a PNG without metadata; return its SHA-256 once it is on the disk."""
    picture.info.clear()
    with target.open("w+b") as file:
        # Runs only: a third faster on photos than the search for longer matches, and no larger.
        picture.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise UnusableImageError("the image is no JPEG, PNG or WebP file") from error


def _check_size(width_px: int, height_px: int) -> None:
    shown = f"the image has {width_px}x{height_px} pixels"
    if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in (width_px, height_px)):
        raise UnusableImageError(f"{shown}; each side must have {MIN_SIDE_PX} to {MAX_SIDE_PX}")
    if width_px * height_px > MAX_PIXELS:
        raise UnusableImageError(f"{shown}; at most {MAX_PIXELS} together are possible")
    if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
        raise UnusableImageError(f"{shown}; no side may be over {MAX_ASPECT} times the other")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises many types; the picture is still good
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = _on_white(image)
    return _to_srgb(image) or image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    layer = image.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer.getchannel("A"))
    if profile is not None:
        flat.info["icc_profile"] = profile
    return flat


def _to_srgb(image: Image.Image) -> Image.Image | None:
    """Return the picture in sRGB, or None where no usable profile says what its colours mean."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _limit() -> None:
    Image.MAX_IMAGE_PIXELS = None  # our own limit is lower and has a message
    _set_limit(resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)
    _set_limit(resource.RLIMIT_FSIZE, FILE_LIMIT_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)


def _allow_cpu_time() -> None:
    """Give the next image its own share: the limit counts the whole life of the process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _set_limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + CPU_LIMIT_S)


def _set_limit(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    main()
