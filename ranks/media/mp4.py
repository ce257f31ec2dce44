"""Frames to an MP4 file, by ffmpeg."""

import json
import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

import imageio_ffmpeg

from broker.wire.job import FRAMES_PER_SECOND, JobSpec
from ranks.errors import RunCancelled

_BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"


def encode(spec: JobSpec, path: Path, frames: Iterable[bytes]) -> None:
    """Write a video.

    Args:
        spec: Its size, and what goes into the metadata.
        path: Of the file.
        frames: RGB, any number of whole frames at a time; may raise `RunCancelled`.

    Raises:
        OSError: If that fails, with ffmpeg's words.
    """
    # In memory, since the disk of temporary files may be the one that is full.
    with os.fdopen(os.memfd_create("ffmpeg"), "w+b") as complaints:
        encoder = subprocess.Popen(
            _command(spec, path),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        )
        # An encoder that ends early breaks the pipe; its exit code and complaint say why.
        with suppress(BrokenPipeError), encoder:
            _feed(encoder, frames)
        if encoder.returncode != 0:
            raise OSError(_complaint(complaints, encoder.returncode))


def _feed(encoder: "subprocess.Popen[bytes]", frames: Iterable[bytes]) -> None:
    assert encoder.stdin is not None
    try:
        for part in frames:
            encoder.stdin.write(part)
    except RunCancelled:
        encoder.kill()
        raise


def _command(spec: JobSpec, path: Path) -> list[str]:
    metadata = {
        name: value
        for name, value in ((field, getattr(spec, field)) for field in spec.__struct_fields__)
        if value is not None
    }
    return [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-y", "-loglevel", "error", "-nostdin"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{spec.width_px}x{spec.height_px}"),
        *("-r", str(FRAMES_PER_SECOND), "-i", "pipe:0", "-an"),
        *("-c:v", "libx264", "-preset", "fast", "-crf", "18", "-pix_fmt", "yuv420p"),
        # Convert by BT.709 and say so: without the tags, players guess, and colours shift. The tags
        # are set on the frames, whose own would overrule those given for the output.
        *("-vf", f"scale=out_color_matrix=bt709:out_range=tv,setparams={_BT709}"),
        *("-movflags", "+faststart+use_metadata_tags"),
        *("-metadata", f"comment={json.dumps(metadata, ensure_ascii=False)}"),
        str(path),
    ]


def _complaint(complaints: IO[bytes], exit_code: int) -> str:
    complaints.seek(0)
    text = complaints.read(2000).decode(errors="replace").strip()
    return f"ffmpeg ended with {exit_code}: {text or 'no message'}"
