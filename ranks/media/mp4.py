"""Writes MP4 files with ffmpeg."""

import json
import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import msgspec

from broker.wire.job import JobSpec
from broker.wire.lora import hashes_of
from broker.wire.model_profile import ModelProfile
from ranks.errors import RunCancelled

_BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"


def write_mp4(spec: JobSpec, model: ModelProfile, path: Path, frames: Iterable[bytes]) -> None:
    """Encode a video.

    Args:
        spec: Size of the video, and its metadata.
        model: Its frame rate; its name and hash go into the metadata.
        path: File to write.
        frames: RGB bytes, any number of whole frames at a time. May raise `RunCancelled`.

    Raises:
        OSError: If ffmpeg fails, with its messages.
    """
    # In memory, because the disk of temporary files may be full.
    with os.fdopen(os.memfd_create("ffmpeg"), "w+b") as messages:
        encoder = subprocess.Popen(
            _command(spec, model, path),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=messages,
        )
        # If ffmpeg exits early, the pipe breaks; its exit code and messages give the cause.
        with suppress(BrokenPipeError), encoder:
            _feed(encoder, frames)
        if encoder.returncode != 0:
            raise OSError(ffmpeg_failure(messages, encoder.returncode))


def _feed(encoder: "subprocess.Popen[bytes]", frames: Iterable[bytes]) -> None:
    assert encoder.stdin is not None
    try:
        for part in frames:
            encoder.stdin.write(part)
    except RunCancelled:
        encoder.kill()
        raise


def _command(spec: JobSpec, model: ModelProfile, path: Path) -> list[str | bytes]:
    fields = msgspec.to_builtins(spec).items()
    metadata = {name: value for name, value in fields if value not in (None, ())}
    metadata |= {"model": model.name, "model_hash": model.content_hash}
    if model.attention != "exact":
        metadata["attention"] = model.attention
    if loras := hashes_of(spec.loras, model.loras):
        metadata["lora_hashes"] = loras
    if model.merged_loras:
        metadata["merged_loras"] = msgspec.to_builtins(model.merged_loras)
    return [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-y", "-loglevel", "error", "-nostdin"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{spec.width_px}x{spec.height_px}"),
        *("-r", str(model.frames_per_second), "-i", "pipe:0", "-an"),
        *("-c:v", "libx264", "-preset", "fast", "-crf", "18", "-pix_fmt", "yuv420p"),
        # Convert with BT.709 and tag it: without tags, players guess, and colours shift. The tags
        # are set on the frames, because a frame's own tags override those of the output.
        *("-vf", f"scale=out_color_matrix=bt709:out_range=tv,setparams={_BT709}"),
        *("-movflags", "+faststart+use_metadata_tags"),
        # As bytes: ffmpeg expects UTF-8 whatever the locale, which may lack a prompt's characters.
        *("-metadata", f"comment={json.dumps(metadata, ensure_ascii=False)}".encode()),
        str(path),
    ]


def ffmpeg_failure(messages: IO[bytes], exit_code: int) -> str:
    messages.seek(0)
    text = messages.read(2000).decode(errors="replace").strip()
    return f"ffmpeg ended with {exit_code}: {text or 'no message'}"
