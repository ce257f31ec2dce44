"""Writes a video and its stills in a thread, while the group runs its next job."""

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from broker.process.log import current_job, current_stage
from broker.store.store import POSTER, REFUSED_WRITES, SPRITES, VIDEOS, Move, Store, StoreError
from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.job import JobSpec, Stage
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from ranks.errors import GroupStopping, JobError, RunCancelled, RunInterrupted
from ranks.media.mp4 import write_mp4
from ranks.media.stills import Stills
from ranks.media.video_check import check_mp4, is_plain_picture

logger = logging.getLogger(__name__)

NO_ROOM = "the disk is full; the video is saved once there is room"
NO_STORE = "the store cannot be reached; the video is saved once it can"
SLOW_STORE = "the store is slow; the video is still being uploaded"
REPORT_DELAY_EVERY_S = 15.0
"""Interval of delay reports during a slow upload: without them the group would count as hung."""
_RETRY_DELAYS_S = (1, 2, 4, 8, 15)


class VideoWriter:
    """Writes one video to the store. Its thread starts with the first frames.

    The frames are kept in memory until the video is in the store: on a full disk, the file is
    written again until there is room. If the store cannot be reached, the finished files are kept
    on disk until it can.

    Args:
        lease: Lease of the run; the files are named after its job.
        spec: Size and length of the video, and its metadata.
        model: The model that makes it.
        image: The input image, which must be there until the first frames are added.
        store: Store of the finished videos.
        is_cancelled: Called regularly in the writer's thread; a cancelled video leaves no file.
        on_delay: Called in the writer's thread with the reason of a delay, repeatedly.
        on_end: Called in the writer's thread after `finish`, with the error or None, and with what
            looks wrong with the video.
    """

    def __init__(
        self,
        lease: Lease,
        spec: JobSpec,
        model: ModelProfile,
        image: Path,
        store: Store,
        is_cancelled: Callable[[], bool],
        on_delay: Callable[[str], None],
        on_end: Callable[[Exception | None, ResultWarning | None], None],
    ) -> None:
        self._store = store
        self._job_id = lease.job_id
        self._partial = store.partial(VIDEOS) / f"{lease.job_id}.{lease.attempt}.mp4"
        self._poster = self._partial.with_suffix(POSTER)
        self._sprites = self._partial.with_suffix(SPRITES)
        self._spec = spec
        self._model = model
        self._image = image
        self._is_image_plain = True
        self._warning: ResultWarning | None = None
        self._num_frames_left = spec.num_frames
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._kept: list[bytes] = []
        self._is_cancelled = is_cancelled
        self._on_delay = on_delay
        self._on_end = on_end
        self._must_not_wait = threading.Event()
        self._is_abandoned = False
        self._is_complete = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="video-writer", daemon=True)

    def add(self, frames: torch.Tensor) -> None:
        """Add the next frames; frames beyond the length of the video are dropped.

        Args:
            frames: `[1, 3, T, H, W]` from -1 to 1, any dtype and device.

        Raises:
            JobError: If writing earlier frames failed.
        """
        if isinstance(self._failure, RunInterrupted):
            return  # the run will end at its next boundary, for the same reason
        if self._failure is not None:
            raise save_failure()
        if not self._thread.ident:
            # Now: when the run has ended, the image may be removed.
            self._is_image_plain = is_plain_picture(self._image)
            self._thread.start()
        kept = frames[0, :, : self._num_frames_left]
        self._num_frames_left -= kept.shape[1]
        pixels = kept.permute(1, 2, 3, 0).float().add(1.0).mul(127.5).round()
        self._frames.put(pixels.to("cpu", torch.uint8).contiguous().numpy().tobytes())

    def finish(self) -> None:
        """Mark the video as complete; `on_end` will be called."""
        self._frames.put(None)

    def abandon(self) -> None:
        """Discard the video; `on_end` will not be called."""
        self._is_abandoned = True
        self._frames.put(None)

    def stop_waiting(self) -> None:
        """Fail with `GroupStopping` instead of waiting for the disk or the store."""
        self._must_not_wait.set()

    def wait(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    @property
    def is_writing(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        # A new thread does not inherit these context variables.
        current_job.set(self._job_id)
        current_stage.set(Stage.SAVE.value)
        try:
            self._save()
        except Exception as error:
            if not isinstance(error, RunInterrupted):
                logger.exception("the video could not be saved")
            self._failure = error
        self._kept.clear()
        while self._next() is not None:
            pass  # `add` or `on_end` reports the failure
        if not self._is_abandoned:
            self._on_end(self._failure, self._warning)

    def _save(self) -> None:
        for delay_s in retry_delays_s():
            try:
                return self._save_once()
            except OSError as error:
                if not _is_disk_full(error):
                    raise
                logger.warning("no room for the video, next try in %d s: %s", delay_s, error)
            self._on_delay(NO_ROOM)
            self._pause(delay_s)

    def _save_once(self) -> None:
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            stills = Stills(self._spec)
            write_mp4(self._spec, self._model, self._partial, self._all_frames(stills))
            self._check_written()
            stills.save(self._poster, self._sprites)
            self._put()
        finally:
            # At once, because other jobs need the room. An error here must not prevent `on_end`.
            for partial in (self._partial, self._poster, self._sprites):
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _check_written(self) -> None:
        frames_per_second = self._model.frames_per_second
        is_plain = check_mp4(self._spec, frames_per_second, self._partial, self._raise_if_cancelled)
        if is_plain and not self._is_image_plain:
            logger.warning("the video shows a single colour, which its image does not")
            self._warning = ResultWarning.SINGLE_COLOUR

    def _pause(self, delay_s: int) -> None:
        for _ in range(delay_s):
            self._raise_if_cancelled()
            if self._must_not_wait.wait(1.0):
                raise GroupStopping

    def _all_frames(self, stills: Stills) -> Iterator[bytes]:
        for frames in itertools.chain(list(self._kept), self._new_frames()):
            self._raise_if_cancelled()
            yield frames
            stills.add(frames)
        self._raise_if_cancelled()

    def _new_frames(self) -> Iterator[bytes]:
        while (frames := self._next()) is not None:
            self._kept.append(frames)
            yield frames

    def _next(self) -> bytes | None:
        if not self._is_complete:
            frames = self._frames.get()
            self._is_complete = frames is None
            return frames
        return None

    def _raise_if_cancelled(self) -> None:
        if self._is_abandoned or self._is_cancelled():
            raise RunCancelled

    def _put(self) -> None:
        stem = f"{VIDEOS}/{self._job_id}"
        moves = [
            Move(self._poster, f"{stem}{POSTER}"),
            Move(self._sprites, f"{stem}{SPRITES}"),
            Move(self._partial, f"{stem}.mp4"),  # last: a visible video always has its stills
        ]
        for delay_s in retry_delays_s():
            try:
                return self._store.put(
                    moves, _TransferCheck(self._raise_if_cancelled, self._on_delay)
                )
            except StoreError as error:
                logger.warning(
                    "the video is not in the store, next try in %d s: %s", delay_s, error
                )
            self._on_delay(NO_STORE)
            self._pause(delay_s)


class _TransferCheck:
    """Called during an upload: ends it if the job is cancelled, and reports a slow upload."""

    def __init__(self, check: Callable[[], None], on_delay: Callable[[str], None]) -> None:
        self._check = check
        self._on_delay = on_delay
        self._reported_at_s = time.monotonic()

    def __call__(self) -> None:
        self._check()
        if time.monotonic() - self._reported_at_s > REPORT_DELAY_EVERY_S:
            self._reported_at_s = time.monotonic()
            self._on_delay(SLOW_STORE)


def retry_delays_s() -> Iterator[int]:
    return itertools.chain(_RETRY_DELAYS_S, itertools.repeat(_RETRY_DELAYS_S[-1]))


def save_failure() -> JobError:
    return JobError(ErrorCode.SAVE_FAILED, "the video could not be saved; see the server's log")


def _is_disk_full(error: OSError) -> bool:
    # Of ffmpeg's errors only the text is known.
    return any(os.strerror(number) in str(error) for number in REFUSED_WRITES)
