"""The broker's clock, which never jumps, and the times that clients see, which are the system's."""

import logging
import time
from collections.abc import Callable

from msgspec import structs

from broker.wire.job_view import JobView
from broker.wire.replies import CallbackTaken, FrontReply, JobFound, JobHistory, JobsListed

logger = logging.getLogger(__name__)

_CORRECTED_FROM_S = 1.0
"""Smaller differences are left, so that a time that has been shown hardly ever changes."""


class SteadyClock:
    """Seconds since 1970, from the time of the start on by a clock that never jumps.

    When the system's clock is corrected, what was recorded since the start is shown as much later
    or earlier: it had been taken from the wrong clock. Differences stay as they are.

    Args:
        system: The system's clock, which may be set.
        steady: A clock that never jumps.
    """

    def __init__(
        self,
        system: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._system = system
        self._steady = steady
        self._offset_s = system() - steady()
        self._start_s = self()
        self._correction_s = 0.0

    def __call__(self) -> float:
        return self._offset_s + self._steady()

    def follow_system(self) -> None:
        """Notice whether the system's clock has been set."""
        correction_s = self._system() - self()
        if abs(correction_s - self._correction_s) >= _CORRECTED_FROM_S:
            logger.warning(
                "the system's clock was set by %+.1f s", correction_s - self._correction_s
            )
            self._correction_s = correction_s

    def shown(self, at_s: float) -> float:
        """Return a recorded time by the system's clock; earlier lives had their own clock."""
        return at_s + self._correction_s if at_s >= self._start_s else at_s

    def shown_view(self, view: JobView) -> JobView:
        if self._correction_s == 0.0:
            return view
        updated_at = self.shown(view.updated_at)
        expires_at = view.expires_at
        if expires_at is not None:
            expires_at += updated_at - view.updated_at
        return structs.replace(
            view,
            created_at=min(self.shown(view.created_at), updated_at),
            updated_at=updated_at,
            expires_at=expires_at,
        )

    def shown_reply(self, reply: FrontReply) -> FrontReply:
        match reply:
            case JobFound():
                return structs.replace(reply, job=self.shown_view(reply.job))
            case JobHistory() | JobsListed():
                return structs.replace(reply, jobs=[self.shown_view(job) for job in reply.jobs])
            case CallbackTaken(callback=callback) if callback is not None:
                ended_at = self.shown(callback.ended_at)
                return structs.replace(reply, callback=structs.replace(callback, ended_at=ended_at))
            case _:
                return reply
