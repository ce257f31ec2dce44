"""When a process that has failed is started again, and when the launcher gives up."""

from collections import deque

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
WINDOW_S = 600.0
MAX_FAILURES = 5


class RestartPolicy:
    """Doubles the delay from 1 s to 60 s; gives up at the fifth failure within ten minutes."""

    def __init__(self) -> None:
        self._failures: deque[float] = deque()

    def delay_s(self, now_s: float) -> float | None:
        """Record a failure; return the delay before the next start, or None to give up."""
        while self._failures and now_s - self._failures[0] > WINDOW_S:
            self._failures.popleft()
        self._failures.append(now_s)
        if len(self._failures) >= MAX_FAILURES:
            return None
        return min(FIRST_DELAY_S * 2.0 ** (len(self._failures) - 1), MAX_DELAY_S)
