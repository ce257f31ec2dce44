"""The size of a video as clients write it: in pixels, as 720p, or as the image's shape."""

import re
from math import isqrt
from typing import NamedTuple

from broker.wire.job import MIN_SIDE_PX, SpecError
from broker.wire.model_profile import ModelProfile

_AUTO = ("auto", "adaptive")
_RESOLUTIONS = {"720p": 1280 * 720, "480p": 832 * 480}
_PLAIN = re.compile(r"[0-9]{1,5}[*x][0-9]{1,5}")
_PIXELS = re.compile(r"\s*([0-9]{1,5})\s*[*xX\u00d7]\s*([0-9]{1,5})\s*", re.ASCII)
_RATIO = re.compile(r"([1-9][0-9]{0,4})[:x/]([1-9][0-9]{0,4})")
_NEARLY = 0.9
"""A model whose largest video has this share of a resolution's pixels makes that resolution."""


class AreaLimit(NamedTuple):
    """A video as large as a number of pixels allows, whose shape is known later."""

    max_pixels: int
    side_multiple_px: int

    @property
    def any_size(self) -> str:
        """A size of so many pixels, to check the job with before its image is known."""
        return self.size_of(1, 1)

    def size_of(self, width: int, height: int) -> str:
        """Return the size with an aspect ratio: that of an image, in pixels, or such as 16, 9.

        Source:
            Wan2.1 `wan/image2video.py`, `WanI2V.generate`: both sides are rounded down.
        """
        return f"{self._side(width, height)}*{self._side(height, width)}"

    def _side(self, side: int, other: int) -> int:
        largest = isqrt(self.max_pixels * side // other)
        return max(MIN_SIDE_PX, largest // self.side_multiple_px * self.side_multiple_px)


def read_size(text: str, profile: ModelProfile) -> str | AreaLimit:
    """Return a size as `W*H`, or the limit for the image's shape.

    Text of any other form is returned as it is, for the check of the field to refuse.

    Raises:
        SpecError: If the model cannot make the resolution.
    """
    word = text.strip().lower()
    if word in _AUTO:
        return AreaLimit(profile.max_pixels, profile.side_multiple_px)
    if word in _RESOLUTIONS:
        return _of_resolution(word, profile)
    match = _PIXELS.fullmatch(text)
    # What is plain stays as the client wrote it: the hash of a repeated request covers it.
    if match is None or _PLAIN.fullmatch(text):
        return text
    return f"{match[1]}*{match[2]}"


def read_aspect_ratio(text: str) -> tuple[int, int] | None:
    """Return an aspect ratio such as 16:9; None if it is the image's.

    Raises:
        SpecError: If it is none.
    """
    word = text.strip().lower()
    if word in _AUTO:
        return None
    match = _RATIO.fullmatch(word)
    if match is None:
        raise SpecError("aspect_ratio", f'aspect_ratio is "{text[:60]}"; write it as 16:9, or auto')
    return int(match[1]), int(match[2])


def _of_resolution(name: str, profile: ModelProfile) -> AreaLimit:
    pixels = _RESOLUTIONS[name]
    if profile.max_pixels < _NEARLY * pixels:
        raise SpecError(
            "image_size",
            f"image_size is {name}, {pixels} pixels; {profile.name} makes at most "
            f"{profile.max_pixels}",
        )
    return AreaLimit(min(pixels, profile.max_pixels), profile.side_multiple_px)
