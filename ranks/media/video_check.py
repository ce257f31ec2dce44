"""Decodes a finished video again: what cannot be played is not a video."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from broker.wire.job import JobSpec
from ranks.media.mp4 import ffmpeg_failure

_SAMPLE_EVERY_PX = 4
_MAX_NOISE = 2.0
"""Standard deviation, of 255 levels, that the encoder may add to a single colour."""


class DamagedVideoError(OSError):
    """Raised when a finished video is not what was written."""


def check_mp4(spec: JobSpec, frames_per_second: int, path: Path, check: Callable[[], None]) -> bool:
    """Decode a video and compare it with what was asked for.

    Args:
        spec: Size and number of frames of the video.
        frames_per_second: Its frame rate.
        path: The video.
        check: Called before each frame; an exception from it ends the decoding.

    Returns:
        Whether most of its frames show a single colour.

    Raises:
        DamagedVideoError: If it cannot be decoded, or has another size, length or frame rate.
    """
    num_plain = num_frames = 0
    # In memory, because the disk of temporary files may be full.
    with os.fdopen(os.memfd_create("ffmpeg"), "w+b") as messages:
        decoder = subprocess.Popen(_command(path), stdout=subprocess.PIPE, stderr=messages)
        with decoder:
            try:
                for planes in _decoded_frames(spec, frames_per_second, decoder.stdout):
                    check()
                    num_frames += 1
                    num_plain += _is_plain(planes)
            except BaseException:
                decoder.kill()
                raise
        if decoder.returncode != 0:
            raise DamagedVideoError(ffmpeg_failure(messages, decoder.returncode))
    if num_frames != spec.num_frames:
        raise DamagedVideoError(
            f"the written video has {num_frames} frames; expected {spec.num_frames}"
        )
    return num_plain * 2 > num_frames


def is_plain_picture(path: Path) -> bool:
    """Return whether a picture shows a single colour; True if it cannot be read."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("YCbCr").resize((128, 128), Image.Resampling.NEAREST)
    except OSError:
        return True
    return _is_plain([np.asarray(channel) for channel in small.split()])


def _command(path: Path) -> list[str]:
    return [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-loglevel", "error", "-nostdin", "-xerror", "-err_detect", "explode"),
        *("-i", str(path)),
        # This format says size and rate, and has a fixed rate: a gap would be filled with frames.
        *("-f", "yuv4mpegpipe", "-pix_fmt", "yuv420p", "pipe:1"),
    ]


def _decoded_frames(
    spec: JobSpec, frames_per_second: int, stream: IO[bytes] | None
) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield luma and the two chroma planes of every frame, sampled."""
    assert stream is not None
    width, height = spec.width_px, spec.height_px
    header = stream.readline()
    if not header:
        return  # the decoder's message says why
    expected = {f"W{width}", f"H{height}", f"F{frames_per_second}:1"}
    found = header.decode(errors="replace").split()
    if missing := expected.difference(found):
        raise DamagedVideoError(
            f"the written video has {' '.join(found)}; expected {', '.join(sorted(missing))}"
        )
    luma, chroma = width * height, width * height // 4
    while stream.readline():
        frame = np.frombuffer(stream.read(luma + 2 * chroma), np.uint8)
        if len(frame) != luma + 2 * chroma:
            return  # the decoder ended within a frame
        planes = np.split(frame, [luma, luma + chroma])
        sides = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
        yield [
            plane.reshape(side)[::_SAMPLE_EVERY_PX, ::_SAMPLE_EVERY_PX]
            for plane, side in zip(planes, sides, strict=True)
        ]


def _is_plain(channels: list[NDArray[np.uint8]]) -> bool:
    return all(channel.std() < _MAX_NOISE for channel in channels)
