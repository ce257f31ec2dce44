"""Priority over what runs already: a run has to leave for a job that is more urgent."""

import logging
from itertools import islice

from broker.dispatch.commands import ToGroup
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.groups import Attempt
from broker.wire.protocol import PreemptRun

logger = logging.getLogger(__name__)


class Preemption:
    """Sends runs away, one for each job that waits for it at most.

    A run leaves only for a job of higher priority that also stands before its own job in the queue.
    So nobody is sent away in turns, and who has waited for long is not sent away at all.

    Args:
        board: The dispatcher's board.
    """

    def __init__(self, board: DispatchState) -> None:
        self._board = board

    def preempt(self) -> None:
        """Tell the runs to leave whose groups more urgent jobs wait for."""
        while (run := self._next_to_leave()) is not None:
            logger.info("job %s has to leave for a more urgent one", run.lease.job_id)
            run.preempted = True
            self._board.emit(ToGroup(run.lease.group, PreemptRun(lease=run.lease)))

    def _next_to_leave(self) -> Attempt | None:
        queue, leavers = self._board.jobs.queue, self._board.groups.leavers
        highest, lowest = queue.highest_priority, leavers.lowest_priority
        if highest is None or lowest is None or highest <= lowest:
            return None
        expecting = self._expecting()
        found = []
        for shape in queue.shapes:
            job = queue.first_for(shape, expecting)
            last = None if job is None else leavers.last(shape, job.priority)
            if job is not None and last is not None and queue.place(job) < last[0]:
                found.append((queue.place(job), last))
        if not found:
            return None
        first = min(place for place, _ in found)
        _, name = max(last for place, last in found if place == first)
        return self._board.groups[name].sole_run

    def _expecting(self) -> set[str]:
        """Return the jobs for which groups will be free in a moment."""
        expecting: set[str] = set()
        for shape, num_groups in self._board.groups.leavers.yielding():
            others = (job for job in self._board.jobs.queue.line(shape) if job not in expecting)
            expecting |= {*islice(others, num_groups)}
        return expecting
