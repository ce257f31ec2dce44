"""What rank 0 reports of an attempt, and what becomes of its job."""

import logging
from typing import Any, assert_never

from broker.dispatch.commands import DropVideo
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.groups import Attempt
from broker.dispatch.job_record import Job
from broker.dispatch.pace import ATTEMPT_STAGES, fraction_done
from broker.dispatch.policy import DispatchPolicy
from broker.wire.errors import ErrorCode
from broker.wire.group_reports import (
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.group_shape import step_work
from broker.wire.job import JobState, Stage
from broker.wire.rank_messages import StepDone

logger = logging.getLogger(__name__)

_MAX_REASON_CHARS = 500

AttemptEnd = JobFinished | JobFailed | JobStopped
AttemptReport = JobStarted | JobDecoded | JobDelayed | StepDone | AttemptEnd


class AttemptLifecycle:
    """Follows the reports about attempts.

    Args:
        state: Of the dispatcher.
        policy: How long a job waits after each lost attempt.
    """

    def __init__(self, state: DispatchState, policy: DispatchPolicy) -> None:
        self._state = state
        self._retry_pauses_s = policy.retry_pauses_s

    def handle(self, report: AttemptReport, now_s: float) -> None:
        """Take a report; drop it if its lease is not in force."""
        attempt = self._state.find_attempt(report.lease)
        if attempt is None:
            self._drop(report)
            return
        match report:
            case JobStarted():
                self._on_started(attempt, report, now_s)
            case JobDecoded():
                self._on_decoded(attempt, now_s)
            case JobDelayed():
                self._on_delayed(attempt, report, now_s)
            case StepDone():
                self._on_step(attempt, report, now_s)
            case JobFinished() | JobFailed() | JobStopped():
                self._on_end(attempt, report, now_s)
            case _:
                assert_never(report)
        self._state.groups.reindex(report.lease.group)

    def lose(self, attempt: Attempt, now_s: float) -> None:
        """Take back an attempt that its group will not finish."""
        job = self._job_of(attempt)
        if job is None:
            return
        if self._state.draining:
            self._requeue(job, now_s)
        else:
            self._retry(job, now_s)

    def _drop(self, report: AttemptReport) -> None:
        level = logging.DEBUG if isinstance(report, StepDone) else logging.WARNING
        logger.log(level, "dropped %s: no such lease: %s", type(report).__name__, report.lease)
        if isinstance(report, JobFinished):
            job = self._state.jobs.get(report.lease.job_id)
            if job is not None and job.state in (JobState.CANCELLED, JobState.FAILED):
                # Cancelled, and then the broker was restarted: the video must not be found.
                self._state.emit(DropVideo(report.lease.job_id))

    def _on_started(self, attempt: Attempt, report: JobStarted, now_s: float) -> None:
        job = self._job_of(attempt)
        if job is not None and not attempt.started:
            changed = job.changed(now_s, stage=Stage.ENCODE, prompt_tokens=report.prompt_tokens)
            self._state.publish(changed, now_s)
        attempt.start(now_s)

    def _on_decoded(self, attempt: Attempt, now_s: float) -> None:
        if not attempt.decoded:
            spent_s = now_s - attempt.progress.at_s
            attempt.decode(now_s, self._state.awake.now_s)
            saving = StepDone(lease=attempt.lease, stage=Stage.SAVE, step=0, num_steps=1)
            self._advance(attempt, saving, spent_s, now_s)

    def _on_delayed(self, attempt: Attempt, report: JobDelayed, now_s: float) -> None:
        attempt.delay(self._state.awake.now_s)
        job, reason = self._job_of(attempt), report.reason[:_MAX_REASON_CHARS]
        if job is not None and job.reason != reason:
            self._state.publish(job.changed(now_s, reason=reason), now_s)

    def _on_step(self, attempt: Attempt, report: StepDone, now_s: float) -> None:
        # Steps come on another socket than reports: `JobDecoded` may overtake one.
        job = self._job_of(attempt)
        is_late = attempt.decoded and report.stage is not Stage.SAVE
        if job is None or is_late or report.stage not in ATTEMPT_STAGES:
            return
        self._learn_step(job, attempt, report, now_s)
        spent_s = now_s - attempt.progress.at_s
        attempt.progress = self._state.pace_of(job).learn(job.spec, attempt.progress, report, now_s)
        if attempt.decoded:
            attempt.decode(now_s, self._state.awake.now_s)
        self._advance(attempt, report, spent_s, now_s)

    def _learn_step(self, job: Job, attempt: Attempt, report: StepDone, now_s: float) -> None:
        group = self._state.groups[attempt.lease.group]
        if group.shape is None:  # the broker was restarted a moment ago
            return
        group.watch.expect_steps(step_work(job.spec, group.shape, report.step - 1))
        step_s = self._state.pace_of(job).step_s(attempt.progress, report, now_s)
        if step_s is not None and report.stage is Stage.DENOISE and not report.is_skipped:
            group.watch.learn_step(step_s)

    def _advance(self, attempt: Attempt, report: StepDone, spent_s: float, now_s: float) -> None:
        """Publish an attempt's progress; `spent_s` is the time since its last report."""
        job = self._job_of(attempt)
        if job is None:
            return
        done = fraction_done(report.stage, report.step + report.part, report.num_steps)
        attempt.delayed = False  # what it waited for is there
        changed = job.changed(
            now_s,
            reason=None,
            stage=report.stage,
            step=report.step,
            num_steps=report.num_steps,
            skipped_steps=report.skipped_steps or job.skipped_steps,
            progress=max(job.progress, done),
            stage_s=job.spent(report.stage, spent_s),
        )
        self._state.publish(changed, now_s)

    def _on_end(self, attempt: Attempt, report: AttemptEnd, now_s: float) -> None:
        group = self._state.groups[attempt.lease.group]
        del group.attempts[attempt.lease.job_id]
        if isinstance(report, JobStopped) and not (attempt.cancelled or report.preempted):
            group.leaving = True
        job = self._job_of(attempt)
        if job is not None:
            self._settle(job, attempt, report, now_s)
        elif not isinstance(report, JobFailed):
            # The stills of a left attempt may be in the store already.
            self._drop_unwanted(attempt.lease.job_id)

    def _drop_unwanted(self, job_id: str) -> None:
        # Another attempt of the job may still succeed.
        job = self._state.jobs.get(job_id)
        if job is None or job.state in (JobState.CANCELLED, JobState.FAILED):
            self._state.emit(DropVideo(job_id))

    def _settle(self, job: Job, attempt: Attempt, report: AttemptEnd, now_s: float) -> None:
        match report:
            case JobFinished():
                saving_s = now_s - attempt.progress.at_s
                if attempt.decoded and attempt.progress.done == 0.0:
                    self._state.pace_of(job).keep(job.spec, Stage.SAVE, saving_s)
                stage_s = job.spent(Stage.SAVE, saving_s)
                ended = job.ended(
                    JobState.SUCCEED,
                    now_s,
                    progress=1.0,
                    video=report.video,
                    warning=report.warning,
                    stage_s=stage_s,
                )
                self._state.save(ended, now_s)
            case JobFailed():
                self._fail(job, report.code, report.reason[:_MAX_REASON_CHARS], now_s)
            case JobStopped():
                self._requeue(job, now_s)
            case _:
                assert_never(report)

    def _retry(self, job: Job, now_s: float) -> None:
        num_lost = job.num_lost + 1
        if num_lost > len(self._retry_pauses_s):
            reason = f"the ranks died or hung during the run ({num_lost} attempts)"
            self._fail(job, ErrorCode.GROUP_LOST, reason, now_s, num_lost=num_lost)
            return
        pause_s = self._retry_pauses_s[num_lost - 1]
        logger.warning(
            "job %s: attempt %d lost, the next one in %g s at the earliest",
            *(job.job_id, job.attempt, pause_s),
        )
        self._state.save(job.queued_again(now_s, num_lost, pause_s), now_s)

    def _fail(self, job: Job, code: ErrorCode, reason: str, now_s: float, **changes: Any) -> None:
        logger.error("job %s failed: %s", job.job_id, reason)
        failed = job.ended(JobState.FAILED, now_s, error_code=code, reason=reason, **changes)
        self._state.save(failed, now_s)

    def _requeue(self, job: Job, now_s: float) -> None:
        # The attempt ended as planned, so it does not count as lost.
        self._state.save(job.queued_again(now_s, job.num_lost), now_s)

    def _job_of(self, attempt: Attempt) -> Job | None:
        """Return the job of an attempt; None if the job was cancelled."""
        job = self._state.jobs.get(attempt.lease.job_id)
        return job if job is not None and job.lease == attempt.lease else None
