"""Calls the store in threads, and turns its errors into errors for clients."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from broker.store.store import Store, StoreError
from broker.wire.errors import ErrorCode
from http_front.errors import FrontError

logger = logging.getLogger(__name__)

CALL_LIMIT_S = 15.0
_NUM_THREADS = 16
_RETRY_AFTER_S = 30

Result = TypeVar("Result")


class StoredFiles:
    """Calls the store without blocking the event loop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="store")

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run a store operation in a thread and return its result.

        Raises:
            FrontError: If the store fails or does not reply in time.
            OSError: If the local disk fails.
        """
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (StoreError, TimeoutError) as error:
            logger.error(
                "the store cannot be reached: %s", error or f"no reply within {CALL_LIMIT_S:g} s"
            )
            raise FrontError(
                ErrorCode.UNAVAILABLE,
                "the server cannot reach its file store; try again later",
                retry_after_s=_RETRY_AFTER_S,
            ) from error

    def close(self) -> None:
        """Shut down without waiting: threads may hang as long as the store does not reply."""
        self._threads.shutdown(wait=False, cancel_futures=True)
