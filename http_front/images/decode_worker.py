"""The child that decodes: `python -m http_front.images.decode_worker PARENT_PID`.

It reads one `DecodeImage` a line and writes one outcome a line. It is limited in memory and
processor time, because the files come from strangers and decoders have faults.
"""

import contextlib
import errno
import hashlib
import io
import os
import resource
import sys
from pathlib import Path

import msgspec
from PIL import Image, ImageCms, UnidentifiedImageError

from broker.process.child import die_with_parent
from broker.process.log import configure_logging
from http_front.images.decode import (
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
STORED_SIDE_PX = 1280
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
    """Return the first frame of the picture in a file: upright, sRGB, opaque, not needlessly large.

    Raises:
        UnusableImageError: If its size is outside the limits; known before anything is decoded.
        Exception: Whatever Pillow makes of a bad file.
    """
    with _open(path) as image:
        _check_size(*image.size)
        size = stored_size(*image.size)
        image.draft(None, size)  # a JPEG can be decoded at a half, a quarter, an eighth of its size
        image.load()
        picture = _to_srgb(_shrink(_flatten(image), size))
        turn = _UPRIGHT.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def stored_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Return the size that a picture is kept in: its shorter side has at most `STORED_SIDE_PX`.

    The ranks scale it to cover a video of at most 921,600 pixels, whose size is not looked at here:
    one picture is stored once, whatever is made of it. With 1280 pixels on its shorter side it
    covers 1280x720, 720x1280 and every other video without a longer side, and is never enlarged for
    them; for 1280x720 a picture of 4:3 is scaled down by 1.33 once more, one of 16:9 by 1.78.
    """
    scale = min(1.0, STORED_SIDE_PX / min(width_px, height_px))
    return round(width_px * scale), round(height_px * scale)


def save(picture: Image.Image, target: Path) -> str:
    """Write plain rows of pixels, no metadata; return their SHA-256 once they are on the disk.

    PPM, since packing a photo as PNG takes longer than all the rest, for half of the space.
    """
    with target.open("w+b") as file:
        picture.save(file, "PPM")
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


def _flatten(image: Image.Image) -> Image.Image:
    """Return the picture as grey, RGB or CMYK of 8 bits, opaque; a colour profile stays beside."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip them
        return image.convert("I").point(lambda value: value / 256).convert("L")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _on_white(image)
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer.getchannel("A"))
    flat.info = {"icc_profile": image.info.get("icc_profile")}
    return flat


def _shrink(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.width <= size[0]:
        return picture
    return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Return the picture in sRGB, as its profile says, if it has one that can be used."""
    profile = picture.info.get("icc_profile")
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
            if converted is not None:
                return converted
    return picture.convert("RGB")


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
