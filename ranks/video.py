"""Frames to an MP4 file and its stills, in a thread that lets the group run its next job."""

import json
import logging
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import torch

from broker.job import FRAMES_PER_SECOND, JobSpec
from broker.protocol import ErrorCode, Lease
from ranks.checkpoint import sync_folder
from ranks.errors import JobError, RunCancelled
from ranks.stills import POSTER_SUFFIX, SPRITES_SUFFIX, Stills

logger = logging.getLogger(__name__)

PARTIAL_FOLDER = ".partial"
_BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"


class VideoWriter:
    """One video on its way to its file. Its thread starts with the first frames.

    Args:
        lease: Whose video; the file is named after the job.
        spec: Size, length and what goes into the metadata.
        folder: Where finished videos are. Unfinished ones are in a folder in it that is not served.
        is_cancelled: Asked now and then by the writer's thread; a cancelled video leaves no file.
        on_end: Called in the writer's thread after `finish`, with None or what went wrong.
    """

    def __init__(
        self,
        lease: Lease,
        spec: JobSpec,
        folder: Path,
        is_cancelled: Callable[[], bool],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self.path = folder / f"{lease.job_id}.mp4"
        self._partial = folder / PARTIAL_FOLDER / f"{lease.job_id}.{lease.attempt}.mp4"
        self._poster = self._partial.with_suffix(POSTER_SUFFIX)
        self._sprites = self._partial.with_suffix(SPRITES_SUFFIX)
        self._stills = Stills(spec)
        self._command = _ffmpeg_command(spec, self._partial)
        self._num_frames_left = spec.num_frames
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_cancelled = is_cancelled
        self._on_end = on_end
        self._is_abandoned = False
        self._is_complete = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="video-writer", daemon=True)

    def add(self, frames: torch.Tensor) -> None:
        """Take the next frames; those beyond the length of the video are dropped.

        Args:
            frames: `[1, 3, T, H, W]` from -1 to 1.

        Raises:
            JobError: If the file cannot be written; found out while the ranks still work.
        """
        if isinstance(self._failure, RunCancelled):
            return  # the run ends at its next boundary, and as a cancelled one
        if self._failure is not None:
            raise as_job_error(self._failure)
        if not self._thread.ident:
            self._thread.start()
        kept = frames[0, :, : self._num_frames_left]
        self._num_frames_left -= kept.shape[1]
        pixels = kept.permute(1, 2, 3, 0).float().add(1.0).mul(127.5).round()
        self._frames.put(pixels.to("cpu", torch.uint8).contiguous().numpy().tobytes())

    def finish(self) -> None:
        """Say that all frames have been added; `on_end` will be called."""
        self._frames.put(None)

    def abandon(self) -> None:
        """Leave no file; `on_end` will not be called."""
        self._is_abandoned = True
        self._frames.put(None)

    def wait(self, timeout_s: float) -> None:
        """Wait for the end of the writing."""
        self._thread.join(timeout_s)

    @property
    def is_writing(self) -> bool:
        """Whether the file is not yet in its place."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._write()
            self._stills.save(self._poster, self._sprites)
            self._publish()
        except Exception as error:
            if not isinstance(error, RunCancelled):
                logger.exception("the video could not be saved")
            self._failure = error
        for partial in (self._partial, self._poster, self._sprites):
            with suppress(OSError):  # or the caller would never hear of the end
                partial.unlink(missing_ok=True)
        while self._next() is not None:
            pass  # the caller learns of the failure with its next frames, or at the end
        if not self._is_abandoned:
            self._on_end(self._failure)

    def _write(self) -> None:
        with tempfile.TemporaryFile() as complaints:
            encoder = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints
            )
            # An encoder that ends early breaks the pipe; its exit code and complaint say why.
            with suppress(BrokenPipeError), encoder:
                self._feed(encoder)
            if encoder.returncode != 0:
                raise OSError(_complaint(complaints, encoder.returncode))

    def _feed(self, encoder: "subprocess.Popen[bytes]") -> None:
        assert encoder.stdin is not None
        try:
            while (frames := self._next()) is not None:
                self._leave_if_cancelled()
                encoder.stdin.write(frames)
                self._stills.add(frames)
            self._leave_if_cancelled()
        except RunCancelled:
            encoder.kill()
            raise

    def _next(self) -> bytes | None:
        """Return the next frames, None after the last."""
        if not self._is_complete:
            frames = self._frames.get()
            self._is_complete = frames is None
            return frames
        return None

    def _leave_if_cancelled(self) -> None:
        if self._is_abandoned or self._is_cancelled():
            raise RunCancelled

    def _publish(self) -> None:
        """Move the whole files to their places, in the order that survives a power loss."""
        moves = [
            (self._poster, self.path.with_suffix(POSTER_SUFFIX)),
            (self._sprites, self.path.with_suffix(SPRITES_SUFFIX)),
            (self._partial, self.path),  # the last: whoever sees the video finds its stills
        ]
        for partial, _ in moves:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        self._leave_if_cancelled()
        for partial, place in moves:
            partial.rename(place)
        sync_folder(self.path.parent)


def as_job_error(error: Exception) -> JobError:
    """Return what a client is told of a failed write."""
    if "No space left" in str(error):
        return JobError(ErrorCode.SAVE_FAILED, "the video could not be saved: the disk is full")
    return JobError(
        ErrorCode.SAVE_FAILED, "the video could not be saved; the server's log says why"
    )


def _ffmpeg_command(spec: JobSpec, path: Path) -> list[str]:
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
