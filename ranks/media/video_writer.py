"""Frames to an MP4 file and its stills, in a thread that lets the group run its next job."""

import errno
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch

from broker.process.log import current_job, current_stage
from broker.store.store import VIDEOS, Move, Store, StoreError
from broker.wire.job import JobSpec, Stage
from broker.wire.protocol import ErrorCode, Lease
from ranks.errors import GroupStopping, JobError, RunCancelled, RunInterrupted
from ranks.media.mp4 import encode
from ranks.media.stills import POSTER_SUFFIX, SPRITES_SUFFIX, Stills

logger = logging.getLogger(__name__)

NO_ROOM = "the disk is full; the video is saved as soon as there is room"
NO_STORE = "the store cannot be reached; the video is saved as soon as it can"
SLOW_STORE = "the store is slow; the video is on its way there"
REPORT_DELAY_EVERY_S = 15.0
"""While a slow store takes a video: without a word the group would count as hung."""
_RETRY_DELAYS_S = (1, 2, 4, 8, 15)


class VideoWriter:
    """One video on its way to the store. Its thread starts with the first frames.

    The frames are kept until the file is in its place: on a full disk it is written again and again
    until there is room; and for a store that cannot be reached the files are kept until it can.

    Args:
        lease: Whose video; the file is named after the job.
        spec: Size, length and what goes into the metadata.
        store: Where finished videos go.
        is_cancelled: Asked now and then by the writer's thread; a cancelled video leaves no file.
        on_delay: Called in the writer's thread with what is waited for, again and again.
        on_end: Called in the writer's thread after `finish`, with None or what went wrong.
    """

    def __init__(
        self,
        lease: Lease,
        spec: JobSpec,
        store: Store,
        is_cancelled: Callable[[], bool],
        on_delay: Callable[[str], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._store = store
        self._job_id = lease.job_id
        self._partial = store.partial(VIDEOS) / f"{lease.job_id}.{lease.attempt}.mp4"
        self._poster = self._partial.with_suffix(POSTER_SUFFIX)
        self._sprites = self._partial.with_suffix(SPRITES_SUFFIX)
        self._spec = spec
        self._num_frames_left = spec.num_frames
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._kept: list[bytes] = []
        self._is_cancelled = is_cancelled
        self._on_delay = on_delay
        self._on_end = on_end
        self._may_not_wait = threading.Event()
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
        if isinstance(self._failure, RunInterrupted):
            return  # the run ends at its next boundary, for the same reason
        if self._failure is not None:
            raise save_failure()
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

    def stop_waiting(self) -> None:
        """Write the files now or not at all: the group stops."""
        self._may_not_wait.set()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end of the writing."""
        self._thread.join(timeout_s)

    @property
    def is_writing(self) -> bool:
        """Whether the file is not yet in its place."""
        return self._thread.is_alive()

    def _run(self) -> None:
        # A thread begins with nothing of this.
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
            pass  # the caller learns of the failure with its next frames, or at the end
        if not self._is_abandoned:
            self._on_end(self._failure)

    def _save(self) -> None:
        """Bring the files to their places, however often there is no room for them."""
        for pause_s in retry_delays_s():
            try:
                return self._save_once()
            except OSError as error:
                if not _is_disk_full(error):
                    raise
                logger.warning("no room for the video, next try in %d s: %s", pause_s, error)
            self._on_delay(NO_ROOM)
            self._pause(pause_s)

    def _save_once(self) -> None:
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            stills = Stills(self._spec)
            encode(self._spec, self._partial, self._all_frames(stills))
            stills.save(self._poster, self._sprites)
            self._publish()
        finally:
            # At once: others need the room, and without the end of `_run` nobody would hear of it.
            for partial in (self._partial, self._poster, self._sprites):
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _pause(self, pause_s: int) -> None:
        for _ in range(pause_s):
            self._leave_if_cancelled()
            if self._may_not_wait.wait(1.0):
                raise GroupStopping

    def _all_frames(self, stills: Stills) -> Iterator[bytes]:
        """Yield the frames from the first on, those that are still to come included."""
        for frames in itertools.chain(list(self._kept), self._coming_frames()):
            self._leave_if_cancelled()
            yield frames
            stills.add(frames)
        self._leave_if_cancelled()

    def _coming_frames(self) -> Iterator[bytes]:
        while (frames := self._next()) is not None:
            self._kept.append(frames)
            yield frames

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
        """Bring the whole files into the store, however often it cannot be reached."""
        place = f"{VIDEOS}/{self._job_id}"
        moves = [
            Move(self._poster, f"{place}{POSTER_SUFFIX}"),
            Move(self._sprites, f"{place}{SPRITES_SUFFIX}"),
            Move(self._partial, f"{place}.mp4"),  # the last: whoever sees it finds its stills
        ]
        for pause_s in retry_delays_s():
            try:
                return self._store.put(moves, _Patience(self._leave_if_cancelled, self._on_delay))
            except StoreError as error:
                logger.warning(
                    "the video is not in the store, next try in %d s: %s", pause_s, error
                )
            self._on_delay(NO_STORE)
            self._pause(pause_s)


class _Patience:
    """Looks, during a transfer, whether it is still wanted; tells now and then that it goes on."""

    def __init__(self, leave: Callable[[], None], on_delay: Callable[[str], None]) -> None:
        self._leave = leave
        self._on_delay = on_delay
        self._told_s = time.monotonic()

    def __call__(self) -> None:
        self._leave()
        if time.monotonic() - self._told_s > REPORT_DELAY_EVERY_S:
            self._told_s = time.monotonic()
            self._on_delay(SLOW_STORE)


def retry_delays_s() -> Iterator[int]:
    """Yield the seconds to wait after each failed try, without end."""
    return itertools.chain(_RETRY_DELAYS_S, itertools.repeat(_RETRY_DELAYS_S[-1]))


def save_failure() -> JobError:
    """Return what a client is told of a failed write."""
    return JobError(
        ErrorCode.SAVE_FAILED, "the video could not be saved; the server's log says why"
    )


def _is_disk_full(error: OSError) -> bool:
    """Return whether disk or quota are used up; of ffmpeg's errors there are only words."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
