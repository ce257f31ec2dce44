"""Logs dropped messages, at a rate that a hostile peer cannot use to fill the disk."""

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_LINES = 20
PERIOD_S = 10.0


class RateLimitedLog:
    """Logs the first drops of each period, and the number of the others.

    Args:
        clock: Returns a time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s = clock()
        self._num_drops = 0

    def log(self, error: Exception) -> None:
        now_s = self._clock()
        if now_s - self._since_s >= PERIOD_S:
            if self._num_drops > MAX_LINES:
                logger.warning("dropped %d more messages", self._num_drops - MAX_LINES)
            self._since_s, self._num_drops = now_s, 0
        self._num_drops += 1
        if self._num_drops <= MAX_LINES:
            logger.warning("dropped a message: %s", error)
