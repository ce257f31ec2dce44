"""The decoding child process: `python -m http_front.images.decode_worker PARENT_PID`.

It reads one `DecodeImage` per line and writes one outcome per line. Its memory and CPU time are
limited, because the files are untrusted and decoders have bugs.
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
from broker.store.store import REFUSED_WRITES
from http_front.images.decode import (
    DecodeImage,
    ImageDecoded,
    ImageRefused,
    NoSpaceLeft,
    Outcome,
)
from http_front.images.file_structure import UnusableImageError, check_structure

MIN_SIDE_PX = 64
MAX_SIDE_PX = 8192
MAX_PIXELS = 40_000_000
MAX_ASPECT = 8
STORED_SIDE_PX = 1280
MEMORY_LIMIT_BYTES = 2 << 30
FILE_LIMIT_BYTES = 256 << 20
CPU_LIMIT_S = 10

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
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


def main() -> None:
    configure_logging("image-worker", "text")
    die_with_parent(int(sys.argv[1]))
    _limit()
    commands = msgspec.json.Decoder(DecodeImage)
    for line in sys.stdin.buffer:
        _extend_cpu_limit()
        outcome = _serve(commands.decode(line))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


def _serve(command: DecodeImage) -> Outcome:
    target = Path(command.target)
    try:
        picture = decode(Path(command.source))
        sha256 = save(picture, target)
        return ImageDecoded(sha256=sha256, width_px=picture.width, height_px=picture.height)
    except UnusableImageError as error:
        return ImageRefused(reason=str(error))
    except Exception as error:  # noqa: BLE001 - decoders raise many types
        if isinstance(error, OSError) and error.errno in (*REFUSED_WRITES, errno.EIO):
            return NoSpaceLeft()
        return ImageRefused(reason="the image cannot be decoded")


def decode(path: Path) -> Image.Image:
    """Return the first frame of an image file: upright, sRGB, opaque, and scaled to `stored_size`.

    Raises:
        UnusableImageError: If size or structure are outside the limits, checked before decoding.
        Exception: Any type that Pillow raises for a bad file.
    """
    check_structure(path)
    with _open(path) as image:
        _check_size(*image.size)
        size = stored_size(*image.size)
        image.draft(None, size)  # decodes a JPEG at 1/2, 1/4 or 1/8 of its size where possible
        image.load()
        picture = _to_srgb(_shrink(_flatten(image), size))
        turn = _UPRIGHT.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def stored_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Return the size to store an image in: its shorter side has at most `STORED_SIDE_PX`.

    The ranks scale the stored image to cover the video, which has at most 921,600 pixels. The
    video's size does not matter here, so that an image is stored once for all its jobs. A shorter
    side of 1280 pixels covers every video with sides up to 1280, such as 1280x720 and 720x1280,
    without enlarging the image. For 1280x720 the ranks scale a 4:3 image down by another 1.33, and
    a 16:9 image by 1.78.
    """
    scale = min(1.0, STORED_SIDE_PX / min(width_px, height_px))
    return round(width_px * scale), round(height_px * scale)


def save(picture: Image.Image, target: Path) -> str:
    """Write the pixels without metadata, sync the file, and return the SHA-256 of the pixels.

    The format is WebP without loss, by its fastest method: half of the bytes of a photo, and a
    third of the time of PNG. The hash is that of a PPM file, so that it does not depend on the
    encoder.
    """
    with target.open("wb") as file:
        picture.save(
            file, "WEBP", lossless=True, quality=0, method=0, exif=b"", icc_profile=b"", xmp=b""
        )
        file.flush()
        os.fsync(file.fileno())
    digest = hashlib.sha256(b"P6\n%d %d\n255\n" % picture.size)
    digest.update(picture.tobytes())
    return digest.hexdigest()


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise UnusableImageError("the image is not a JPEG, PNG, WebP, GIF or AVIF file") from error


def _check_size(width_px: int, height_px: int) -> None:
    size = f"the image has {width_px}x{height_px} pixels"
    if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in (width_px, height_px)):
        raise UnusableImageError(f"{size}; each side must have {MIN_SIDE_PX} to {MAX_SIDE_PX}")
    if width_px * height_px > MAX_PIXELS:
        raise UnusableImageError(f"{size}; at most {MAX_PIXELS} in total are allowed")
    if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
        raise UnusableImageError(
            f"{size}; the longer side may be at most {MAX_ASPECT} times the shorter"
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises many types; the image is still usable
        return 1


def _flatten(image: Image.Image) -> Image.Image:
    """Return the image as opaque 8-bit grey, RGB or CMYK; a colour profile stays in `info`."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip
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
    """Convert to sRGB by the image's colour profile, or to plain RGB if it has no usable one."""
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
    Image.MAX_IMAGE_PIXELS = None  # our own limit is lower and has its own message
    _set_limit(resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)
    _set_limit(resource.RLIMIT_FSIZE, FILE_LIMIT_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)


def _extend_cpu_limit() -> None:
    """Allow `CPU_LIMIT_S` for the next image; the limit counts from the start of the process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _set_limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + CPU_LIMIT_S)


def _set_limit(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    main()
