"""What a run starts from, brought to this machine: the image, and a saved state if there is one."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from broker.store.store import INPUTS, Store, StoreError, checkpoint_name
from broker.wire.protocol import ErrorCode, RunJob
from ranks.sampling.checkpoint import is_state
from ranks.errors import JobError
from ranks.follower import REASONS
from ranks.media.video_writer import retry_delays_s

logger = logging.getLogger(__name__)

NO_STORE = "the store cannot be reached; the job goes on as soon as it can"
NO_ROOM = "the disk is full; the job goes on as soon as there is room"
_LOOK_EVERY_S = 1.0


class JobInputs:
    """Brings, in a thread, what the store has for a job; all ranks of the group read it then.

    Args:
        store: Of all files.
        job: What is to be made.
        check: Called now and then in the thread; what it raises ends the bringing.
        on_delay: Called in the thread with what is waited for, again and again.
    """

    def __init__(
        self,
        store: Store,
        job: RunJob,
        check: Callable[[], None],
        on_delay: Callable[[str], None],
    ) -> None:
        self._store = store
        self._image = f"{INPUTS}/{job.image}"
        self._state = checkpoint_name(job.lease.job_id)
        self._check = check
        self._on_delay = on_delay

    def begin(self) -> "Future[bool]":
        """Return a future that tells whether there is a saved state to go on from.

        It raises `JobError` if the image is no more, and what `check` raises.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="supplies")
        try:
            return thread.submit(self._bring)
        finally:
            thread.shutdown(wait=False)

    def release(self) -> None:
        """Forget the copies on this machine."""
        for name in (self._image, self._state):
            self._store.release(name)

    def _bring(self) -> bool:
        for pause_s in retry_delays_s():
            try:
                return self._bring_once()
            except OSError as error:
                logger.warning("the image is not here, next try in %d s: %s", pause_s, error)
                reason = NO_STORE if isinstance(error, StoreError) else NO_ROOM
            self._on_delay(reason)
            self._pause(pause_s)
        raise AssertionError("pauses have no end")

    def _bring_once(self) -> bool:
        try:
            self._store.fetch(self._image, self._check)
        except FileNotFoundError as error:
            reason = REASONS[ErrorCode.IMAGE_INVALID]
            raise JobError(ErrorCode.IMAGE_INVALID, reason) from error
        return self._is_resumable()

    def _is_resumable(self) -> bool:
        try:
            return is_state(self._store.fetch(self._state, self._check))
        except FileNotFoundError:
            return False

    def _pause(self, pause_s: int) -> None:
        for _ in range(pause_s):
            self._check()
            time.sleep(_LOOK_EVERY_S)
