"""The store, as the front's event loop uses it: each call in a thread, its errors for clients."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from broker.store.store import Store, StoreError
from broker.wire.protocol import ErrorCode
from http_front.errors import FrontError

logger = logging.getLogger(__name__)

CALL_LIMIT_S = 15.0
_NUM_THREADS = 16
_RETRY_AFTER_S = 30

Result = TypeVar("Result")


class StoredFiles:
    """Asks the store without holding up other requests.

    Args:
        store: Of all files.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="store")

    async def call(self, work: Callable[[], Result]) -> Result:
        """Return what a call of the store returns.

        Raises:
            FrontError: If the store cannot be reached in time.
            OSError: Whatever else goes wrong on a disk.
        """
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (StoreError, TimeoutError) as error:
            logger.error("the store cannot be reached: %s", error or "it does not answer")
            raise FrontError(
                ErrorCode.UNAVAILABLE,
                "the server's store of files cannot be reached; try again",
                retry_after_s=_RETRY_AFTER_S,
            ) from error

    def close(self) -> None:
        """Let go of the threads, which may hang with the store for a while."""
        self._threads.shutdown(wait=False, cancel_futures=True)
