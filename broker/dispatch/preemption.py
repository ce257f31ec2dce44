"""Priority over running jobs: an attempt makes way for a more urgent job."""

import logging
from itertools import islice

from broker.dispatch.commands import ToGroup
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.groups import Attempt
from broker.wire.group_commands import PreemptRun

logger = logging.getLogger(__name__)


class Preemption:
    """Preempts attempts, at most one for each waiting job.

    An attempt makes way only for a job of higher priority that also sorts before its own job. So
    two jobs never preempt each other in turns, and one that has waited for long is not preempted.

    Args:
        state: Of the dispatcher.
    """

    def __init__(self, state: DispatchState) -> None:
        self._state = state

    def preempt(self) -> None:
        while (attempt := self._next_to_leave()) is not None:
            lease = attempt.lease
            logger.info("job %s makes way for a more urgent one", lease.job_id)
            attempt.preempted = True
            self._state.groups.reindex(lease.group)
            self._state.emit(ToGroup(lease.group, PreemptRun(lease=lease)))

    def _next_to_leave(self) -> Attempt | None:
        queue, preemptible = self._state.jobs.queue, self._state.groups.preemptible
        highest, lowest = queue.highest_priority, preemptible.lowest_priority
        if highest is None or lowest is None or highest <= lowest:
            return None
        expecting = self._jobs_about_to_start()
        found = []
        for shape in queue.shapes:
            job = queue.first_for(shape, expecting)
            last = None if job is None else preemptible.last(shape, job.priority)
            if job is not None and last is not None and queue.sort_key(job) < last[0]:
                found.append((queue.sort_key(job), last))
        if not found:
            return None
        first = min(sort_key for sort_key, _ in found)
        _, name = max(last for sort_key, last in found if sort_key == first)
        return self._state.groups[name].sole_attempt

    def _jobs_about_to_start(self) -> set[str]:
        expecting: set[str] = set()
        for shape, num_groups in self._state.groups.preemptible.yielding():
            others = (job for job in self._state.jobs.queue.due_for(shape) if job not in expecting)
            expecting |= {*islice(others, num_groups)}
        return expecting
