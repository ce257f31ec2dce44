"""Keeps videos whatever their age, as many as their owner may keep."""

from collections.abc import Mapping

from msgspec import structs

from broker.dispatch.commands import SaveKept
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.job_record import Job
from broker.dispatch.policy import DispatchPolicy
from broker.wire.errors import ErrorCode
from broker.wire.job_view import JobView
from broker.wire.replies import Refused

KeptMarks = Mapping[int, float | None]
"""By number of a job: None if it is kept, else since when it is not any more."""
NO_MARKS: KeptMarks = {}


class Keeping:
    """Decides which ended jobs are kept.

    Args:
        state: Of the dispatcher.
        policy: How many videos an owner may keep, and how long the others stay.
    """

    def __init__(self, state: DispatchState, policy: DispatchPolicy) -> None:
        self._state = state
        self._policy = policy

    def keep(self, job: Job) -> Refused | None:
        """Keep a job; return why that is refused, if it is."""
        retention = self._state.jobs.retention
        if job.video is None:
            return Refused(
                code=ErrorCode.NOT_FOUND,
                message=f"there is no video to keep: the job is {job.state.value}",
            )
        if retention.is_kept(job):
            return None
        num_kept, limit = retention.num_kept(job.owner), self._policy.keep_limit
        if num_kept >= limit:
            return Refused(
                code=ErrorCode.KEEP_LIMIT,
                message=f"{num_kept} videos are kept, and this server keeps at most {limit} for "
                "each user; let another one expire first",
            )
        retention.keep(job)
        self._state.emit(SaveKept(job.number, let_go_at=None))
        return None

    def let_go(self, job: Job, now_s: float) -> None:
        """Have a job expire again, as if it ended now."""
        retention = self._state.jobs.retention
        if job.state.is_terminal and retention.is_kept(job):
            retention.let_go(job, now_s)
            self._state.emit(SaveKept(job.number, let_go_at=now_s))

    def with_expiry(self, view: JobView) -> JobView:
        """Return the view of an ended job with its expiry, and that of any other unchanged."""
        job = self._state.jobs.get(view.job_id)
        if job is None or not view.state.is_terminal:
            return view
        from_s = self._state.jobs.retention.from_s(job.job_id)
        expires_at = None if from_s is None else from_s + self._policy.job_ttl_s
        return structs.replace(view, kept=from_s is None, expires_at=expires_at)
