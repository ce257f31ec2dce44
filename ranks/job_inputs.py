"""Fetches the inputs of a run to this machine: its images, and its checkpoint if there is one."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from broker.store.store import INPUTS, Store, StoreError, checkpoint_name
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import RunJob
from ranks.errors import JobError
from ranks.media.video_writer import retry_delays_s
from ranks.sampling.checkpoint import is_state

logger = logging.getLogger(__name__)

NO_STORE = "the store cannot be reached; the job continues once it can"
NO_ROOM = "the disk is full; the job continues once there is room"
_CHECK_EVERY_S = 1.0


class JobInputs:
    """Fetches the input files of a job in a thread; then every rank of the group reads them.

    Args:
        store: Store of images, videos and checkpoints.
        job: The job whose files are fetched.
        check: Called regularly in the thread; an exception from it ends the fetching.
        on_delay: Called in the thread with the reason of a delay, repeatedly.
        model_hash: Of the model and the job's LoRAs, which resume no checkpoint of others.
    """

    def __init__(
        self,
        store: Store,
        job: RunJob,
        check: Callable[[], None],
        on_delay: Callable[[str], None],
        model_hash: str,
    ) -> None:
        self._store = store
        # Both may be the same image.
        names = dict.fromkeys((job.image, job.last_image))
        self._images = [f"{INPUTS}/{name}" for name in names if name is not None]
        self._checkpoint = checkpoint_name(job.lease.job_id)
        self._model_hash = model_hash
        self._check = check
        self._on_delay = on_delay

    def begin(self) -> "Future[bool]":
        """Start fetching.

        Returns:
            A future of whether there is a checkpoint to resume from. It raises `JobError` if an
            image is gone, and any exception of `check`.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="job-inputs")
        try:
            return thread.submit(self._fetch)
        finally:
            thread.shutdown(wait=False)

    def release(self) -> None:
        for name in (*self._images, self._checkpoint):
            self._store.release(name)

    def _fetch(self) -> bool:
        for delay_s in retry_delays_s():
            try:
                return self._fetch_once()
            except OSError as error:
                logger.warning("cannot fetch the image, next try in %d s: %s", delay_s, error)
                reason = NO_STORE if isinstance(error, StoreError) else NO_ROOM
            self._on_delay(reason)
            self._pause(delay_s)
        raise AssertionError("the retries have no end")

    def _fetch_once(self) -> bool:
        for name, image in zip(("image", "last image"), self._images, strict=False):
            try:
                self._store.fetch(image, self._check)
            except FileNotFoundError as error:
                reason = f"the stored {name} can no longer be read; submit it again"
                raise JobError(ErrorCode.IMAGE_INVALID, reason) from error
        return self._is_resumable()

    def _is_resumable(self) -> bool:
        try:
            return is_state(self._store.fetch(self._checkpoint, self._check), self._model_hash)
        except FileNotFoundError:
            return False

    def _pause(self, delay_s: int) -> None:
        for _ in range(delay_s):
            self._check()
            time.sleep(_CHECK_EVERY_S)
