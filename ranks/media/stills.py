"""Stills from a video: its poster, and a sheet of small pictures to leaf through it."""

from pathlib import Path

from PIL import Image

from broker.wire.job import JobSpec

POSTER_SUFFIX = ".webp"
SPRITES_SUFFIX = ".sprites.webp"
SPRITE_COLUMNS = 5
NUM_SPRITES = 10
_POSTER_SIDE_PX = 640
_SPRITE_SIDE_PX = 192
_QUALITY = 80


class Stills:
    """Keeps, small, the frames of a video that are wanted; `add` sees every frame once.

    The poster is the frame in the middle: the first one only repeats the image that was sent.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._size = (spec.width_px, spec.height_px)
        self._frame_bytes = spec.width_px * spec.height_px * 3
        last = spec.num_frames - 1
        self._wanted = {index * last // (NUM_SPRITES - 1) for index in range(NUM_SPRITES)}
        self._poster_at = last // 2
        self._num_seen = 0
        self._poster: Image.Image | None = None
        self._sprites: list[Image.Image] = []

    def add(self, frames: bytes) -> None:
        """Take the next frames, RGB, one after the other."""
        for start in range(0, len(frames), self._frame_bytes):
            if self._num_seen in self._wanted or self._num_seen == self._poster_at:
                self._keep(frames[start : start + self._frame_bytes])
            self._num_seen += 1

    def save(self, poster: Path, sprites: Path) -> None:
        """Write poster and sheet as WebP."""
        assert self._poster is not None, "the video has ended before its middle"
        self._poster.save(poster, "WEBP", quality=_QUALITY)
        self._sheet().save(sprites, "WEBP", quality=_QUALITY)

    def _keep(self, frame: bytes) -> None:
        picture = Image.frombytes("RGB", self._size, frame)
        if self._num_seen == self._poster_at:
            self._poster = _small(picture, _POSTER_SIDE_PX)
        if self._num_seen in self._wanted:
            self._sprites.append(_small(picture, _SPRITE_SIDE_PX))

    def _sheet(self) -> Image.Image:
        width_px, height_px = self._sprites[0].size
        rows = -(-NUM_SPRITES // SPRITE_COLUMNS)
        sheet = Image.new("RGB", (width_px * SPRITE_COLUMNS, height_px * rows))
        for index, sprite in enumerate(self._sprites):
            row, column = divmod(index, SPRITE_COLUMNS)
            sheet.paste(sprite, (column * width_px, row * height_px))
        return sheet


def _small(picture: Image.Image, side_px: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((side_px, side_px))
    return small
