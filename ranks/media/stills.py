"""Stills of a video: its poster, and a sprite sheet of small frames to skim through it."""

from pathlib import Path

from PIL import Image

from broker.wire.job import JobSpec

SPRITE_COLUMNS = 5
NUM_SPRITES = 10
_POSTER_SIDE_PX = 640
_SPRITE_SIDE_PX = 192
_QUALITY = 80


class Stills:
    """Collects the stills of a video; every frame must be added once, in order.

    The poster is the middle frame, because the first one only repeats the input image.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._size = (spec.width_px, spec.height_px)
        self._frame_bytes = spec.width_px * spec.height_px * 3
        last = spec.num_frames - 1
        self._sprite_frames = {index * last // (NUM_SPRITES - 1) for index in range(NUM_SPRITES)}
        self._poster_frame = last // 2
        self._num_seen = 0
        self._poster: Image.Image | None = None
        self._sprites: list[Image.Image] = []

    def add(self, frames: bytes) -> None:
        for start in range(0, len(frames), self._frame_bytes):
            if self._num_seen in self._sprite_frames or self._num_seen == self._poster_frame:
                self._keep(frames[start : start + self._frame_bytes])
            self._num_seen += 1

    def save(self, poster: Path, sprites: Path) -> None:
        """Write the poster and the sprite sheet as WebP.

        Raises:
            OSError: If the disk is full or fails.
        """
        assert self._poster is not None, "frames are missing: the middle one was never added"
        self._poster.save(poster, "WEBP", quality=_QUALITY)
        self._sheet().save(sprites, "WEBP", quality=_QUALITY)

    def _keep(self, frame: bytes) -> None:
        picture = Image.frombytes("RGB", self._size, frame)
        if self._num_seen == self._poster_frame:
            self._poster = _small(picture, _POSTER_SIDE_PX)
        if self._num_seen in self._sprite_frames:
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
