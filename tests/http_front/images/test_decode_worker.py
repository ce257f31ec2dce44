"""Decoding of large images and of CMYK images, called without the child process."""

import hashlib
import io
import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from http_front.images.decode_worker import (
    STORED_SIDE_PX,
    decode,
    save,
    stored_size,
)
from http_front.images.file_structure import UnusableImageError
from tests.http_front.images.cmyk_profile import odd_inks
from tests.http_front.images.test_decode import encoded

PHOTO = Path(__file__).parents[3] / "docs" / "sample.jpg"
LIMIT_S = 1.0
"""For a 12-megapixel photo on a busy machine; on an idle one it takes 0.1 s."""

Colour = tuple[int, ...]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def decoded(folder: Path, data: bytes) -> Image.Image:
    source = folder / "source"
    source.write_bytes(data)
    return decode(source)


def quarters(width_px: int, height_px: int, mode: str, *colours: Colour | int) -> Image.Image:
    image = Image.new(mode, (width_px, height_px))
    half = (width_px // 2, height_px // 2)
    for number, colour in enumerate(colours):
        image.paste(Image.new(mode, half, colour), (number % 2 * half[0], number // 2 * half[1]))
    return image


def assert_quarters(image: Image.Image, *colours: Colour, tolerance: int = 4) -> None:
    for number, colour in enumerate(colours):
        point = (image.width * (1 + number % 2 * 2) // 4, image.height * (1 + number // 2 * 2) // 4)
        found = image.getpixel(point)
        assert isinstance(found, tuple)
        assert max(abs(a - b) for a, b in zip(found, colour, strict=True)) <= tolerance, found


@pytest.mark.parametrize(
    ("size", "stored"),
    [
        ((64, 64), (64, 64)),
        ((1280, 720), (1280, 720)),
        ((2276, 1280), (2276, 1280)),
        ((8192, 1024), (8192, 1024)),
        ((4032, 3024), (1707, 1280)),
        ((3024, 4032), (1280, 1707)),
        ((8192, 4882), (2148, 1280)),
    ],
)
def test_an_image_keeps_the_pixels_that_a_video_can_need(
    size: tuple[int, int], stored: tuple[int, int]
) -> None:
    assert stored_size(*size) == stored


def test_a_small_photo_keeps_every_pixel(tmp_path: Path) -> None:
    with Image.open(PHOTO) as photo:
        same = ImageChops.difference(decoded(tmp_path, PHOTO.read_bytes()), photo.convert("RGB"))
    assert same.getbbox() is None
    assert save(decoded(tmp_path, PHOTO.read_bytes()), tmp_path / "stored")
    with Image.open(tmp_path / "stored") as stored:
        assert ImageChops.difference(stored, decode(PHOTO)).getbbox() is None


def test_a_photo_is_stored_in_fewer_bytes_under_the_hash_of_its_pixels(tmp_path: Path) -> None:
    """The hash is that of the PPM file of earlier versions, so that they share their images."""
    photo = decode(PHOTO)
    digest = save(photo, tmp_path / "stored")
    photo.save(tmp_path / "ppm", "PPM")
    assert digest == hashlib.sha256((tmp_path / "ppm").read_bytes()).hexdigest()
    assert (tmp_path / "stored").stat().st_size < (tmp_path / "ppm").stat().st_size / 2
    with Image.open(tmp_path / "stored") as stored, Image.open(tmp_path / "ppm") as before:
        assert (stored.mode, stored.size) == (before.mode, before.size)
        assert stored.tobytes() == before.tobytes(), "the ranks see other pixels"


@pytest.mark.parametrize("kind", ["GIF", "AVIF"])
def test_the_first_frame_of_other_formats_is_taken(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (96, 64), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    stored = decoded(tmp_path, data)
    assert (stored.mode, stored.size) == ("RGB", (96, 64))
    assert_quarters(stored, RED, RED, RED, RED)


@pytest.mark.parametrize("kind", ["GIF", "AVIF"])
def test_other_formats_have_the_same_limits(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnusableImageError, match="at most 40000000 in total are allowed"):
        decoded(tmp_path, encoded(Image.new("L", (8000, 5001)), kind))


def test_a_transparent_gif_is_white_behind(tmp_path: Path) -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([*BLUE, *RED])
    assert_quarters(decoded(tmp_path, encoded(image, "GIF", transparency=1)), *[WHITE] * 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_shrinking_a_large_photo_does_not_change_its_videos(tmp_path: Path, kind: str) -> None:
    with Image.open(PHOTO) as photo:
        large = photo.convert("RGB").resize((3000, 2250), Image.Resampling.BICUBIC)
    kept = decoded(tmp_path, encoded(large, kind, quality=95))
    for size in ((1280, 720), (720, 1280)):
        ours, whole = (ImageOps.fit(picture, size) for picture in (kept, large))
        error = ImageStat.Stat(ImageChops.difference(ours, whole)).rms
        assert max(error) < 3.0  # of 255; JPEG at quality 95 alone accounts for about 2


def test_a_photo_of_12_megapixels_is_stored_quickly(tmp_path: Path) -> None:
    with Image.open(PHOTO) as photo:
        data = encoded(photo.resize((4032, 3024)), "JPEG", quality=90)
    start = time.perf_counter()
    save(decoded(tmp_path, data), tmp_path / "stored")
    assert time.perf_counter() - start < LIMIT_S


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_large_photo_is_turned_upright(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = quarters(4000, 3000, "RGB", RED, GREEN, BLUE, WHITE)
    stored = decoded(tmp_path, encoded(image, kind, exif=exif.tobytes(), quality=95))
    assert stored.size == (STORED_SIDE_PX, 1707)
    assert_quarters(stored, BLUE, RED, WHITE, GREEN)


@pytest.mark.parametrize(
    ("mode", "colours", "seen"),
    [
        ("RGBA", [(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)], [RED, WHITE, (127,) * 3]),
        ("LA", [(0, 255), (0, 0), (77, 255)], [(0,) * 3, WHITE, (77,) * 3]),
        ("I;16", [0, 0xFFFF, 0x80FF], [(0,) * 3, WHITE, (128,) * 3]),
        ("P", [1, 2, 3], [RED, GREEN, BLUE]),
        ("1", [0, 1, 0], [(0,) * 3, WHITE, (0,) * 3]),
    ],
)
def test_a_large_picture_of_any_mode_keeps_its_colours(
    tmp_path: Path, mode: str, colours: list[Colour | int], seen: list[Colour]
) -> None:
    image = quarters(3000, 2000, mode, *colours)
    if mode == "P":
        image.putpalette([0, 0, 0, *RED, *GREEN, *BLUE])
    stored = decoded(tmp_path, encoded(image))
    assert (stored.mode, stored.size) == ("RGB", (1920, 1280))
    assert_quarters(stored, *seen)


@pytest.mark.parametrize("mode", ["1", "P", "L"])
def test_a_fine_black_and_white_pattern_becomes_grey(tmp_path: Path, mode: str) -> None:
    tile = quarters(2, 2, "L", 0, 255, 255, 0)
    image = Image.new("L", (3000, 2000))
    for x in range(0, 3000, 2):
        image.paste(tile, (x, 0))
    for y in range(2, 2000, 2):
        image.paste(image.crop((0, 0, 3000, 2)), (0, y))
    stored = decoded(tmp_path, encoded(image.convert(mode)))
    assert ImageStat.Stat(stored).stddev[0] < 64  # of 127.5


def test_the_limits_apply_to_the_file_and_not_to_the_stored_size(tmp_path: Path) -> None:
    image = Image.new("RGB", (8000, 5001))
    with pytest.raises(UnusableImageError, match="8000x5001"):
        decoded(tmp_path, encoded(image, "JPEG"))


INKS = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 0)]


def without_adobe(data: bytes) -> bytes:
    """Remove the Adobe marker of a JPEG, which says that its inks are inverted."""
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]


@pytest.mark.parametrize("side_px", [128, 3000])
@pytest.mark.parametrize("profile", [None, odd_inks()], ids=["plain", "profile"])
def test_cmyk_is_converted_to_the_printed_colours(
    tmp_path: Path, profile: bytes | None, side_px: int
) -> None:
    """Pillow writes CMYK as Adobe does: inverted, and with a marker that says so."""
    seen = [(0, 255, 255), (255, 0, 255), (255, 255, 0), WHITE]
    if profile is not None:
        seen = [GREEN, BLUE, RED, WHITE]
    image = quarters(side_px, side_px, "CMYK", *INKS)
    data = encoded(image, "JPEG", icc_profile=profile, quality=95)
    assert b"Adobe\0" in data
    assert_quarters(decoded(tmp_path, data), *seen, tolerance=12)


def test_cmyk_without_a_marker_is_read_as_adobe_writes_it(tmp_path: Path) -> None:
    image = quarters(128, 128, "CMYK", *INKS)
    data = without_adobe(encoded(image, "JPEG", quality=95))
    stored = decoded(tmp_path, data)
    assert_quarters(stored, (0, 255, 255), (255, 0, 255), (255, 255, 0), WHITE, tolerance=12)


def test_half_an_ink_gives_half_its_colour(tmp_path: Path) -> None:
    image = quarters(128, 128, "CMYK", (128, 0, 0, 0), (0, 0, 0, 128), (0, 0, 0, 255), (255,) * 4)
    stored = decoded(tmp_path, encoded(image, "JPEG", quality=95))
    assert_quarters(stored, (127, 255, 255), (127,) * 3, (0,) * 3, (0,) * 3)


def test_a_profile_for_other_channels_is_ignored(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (64, 64), RED), "JPEG", icc_profile=odd_inks(), quality=95)
    assert_quarters(decoded(tmp_path, data), *[RED] * 4)


def test_a_large_photo_is_converted_by_its_profile(tmp_path: Path) -> None:
    file = io.BytesIO()
    image = quarters(3000, 2000, "CMYK", *INKS)
    image.save(file, "JPEG", icc_profile=odd_inks(), quality=95)
    assert_quarters(decoded(tmp_path, file.getvalue()), GREEN, BLUE, RED, WHITE, tolerance=12)
