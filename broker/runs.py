"""How runs go: what rank 0 reports of an attempt, and what becomes of its job."""

import logging
from collections.abc import Sequence
from typing import Any, assert_never

from broker.board import Board
from broker.commands import DropVideo
from broker.groups import Run
from broker.job import JobState, Stage, step_work
from broker.progress import RUN_STAGES, fraction_done
from broker.protocol import (
    ErrorCode,
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    StepDone,
)
from broker.record import Job

logger = logging.getLogger(__name__)

_MAX_REASON_CHARS = 500

RunEnd = JobFinished | JobFailed | JobStopped
RunReport = JobStarted | JobDecoded | JobDelayed | StepDone | RunEnd


class Runs:
    """Keeps the board true to what groups report of their runs.

    Args:
        board: The dispatcher's board.
        retry_pauses_s: How long a job waits after each lost attempt but the last.
    """

    def __init__(self, board: Board, retry_pauses_s: Sequence[float]) -> None:
        self._board = board
        self._retry_pauses_s = retry_pauses_s

    def handle(self, report: RunReport, now_s: float) -> None:
        """Take a report; drop it if its lease is not, or no longer, in force."""
        run = self._board.find_run(report.lease)
        if run is None:
            self._drop(report)
            return
        match report:
            case JobStarted():
                self._started(run, now_s)
            case JobDecoded():
                self._decoded(run, now_s)
            case JobDelayed():
                self._delayed(run, report, now_s)
            case StepDone():
                self._step_done(run, report, now_s)
            case JobFinished() | JobFailed() | JobStopped():
                self._ended(run, report, now_s)
            case _:
                assert_never(report)

    def lose(self, run: Run, now_s: float) -> None:
        """Take back a run that its group will not finish: the group is dead."""
        job = self._job_of(run)
        if job is None:
            return
        if self._board.draining:
            self._give_back(job, now_s)
        else:
            self._retry(job, now_s)

    def _drop(self, report: RunReport) -> None:
        level = logging.DEBUG if isinstance(report, StepDone) else logging.WARNING
        logger.log(level, "dropped %s: no such lease: %s", type(report).__name__, report.lease)
        job = self._board.jobs.get(report.lease.job_id)
        unwanted = job is not None and job.state in (JobState.CANCELLED, JobState.FAILED)
        if isinstance(report, JobFinished) and unwanted:
            # Cancelled, and then the broker was restarted: nobody shall find the video.
            self._board.emit(DropVideo(report.lease.job_id))

    def _started(self, run: Run, now_s: float) -> None:
        job = self._job_of(run)
        if job is not None and not run.started:
            self._board.publish(job.changed(now_s, stage=Stage.ENCODE), now_s)
        run.start(now_s)

    def _decoded(self, run: Run, now_s: float) -> None:
        if not run.decoded:
            spent_s = now_s - run.mark.at_s
            run.decode(now_s, self._board.awake.now_s)
            saving = StepDone(lease=run.lease, stage=Stage.SAVE, step=0, num_steps=1)
            self._advance(run, saving, spent_s, now_s)

    def _delayed(self, run: Run, report: JobDelayed, now_s: float) -> None:
        run.delay(self._board.awake.now_s)
        job, reason = self._job_of(run), report.reason[:_MAX_REASON_CHARS]
        if job is not None and job.reason != reason:
            self._board.publish(job.changed(now_s, reason=reason), now_s)

    def _step_done(self, run: Run, report: StepDone, now_s: float) -> None:
        # Steps come on another socket than reports: one may be overtaken by `JobDecoded`.
        job = self._job_of(run)
        late = run.decoded and report.stage is not Stage.SAVE
        if job is None or late or report.stage not in RUN_STAGES:
            return
        self._learn_step(job, run, report, now_s)
        spent_s = now_s - run.mark.at_s
        run.mark = self._board.pace.learn(job.spec, run.mark, report, now_s)
        if run.decoded:
            run.decode(now_s, self._board.awake.now_s)
        self._advance(run, report, spent_s, now_s)

    def _learn_step(self, job: Job, run: Run, report: StepDone, now_s: float) -> None:
        """Let the group's watch know what a step of this run is, and how long one took."""
        group = self._board.groups[run.lease.group]
        if group.shape is None:  # the broker was restarted a moment ago
            return
        group.watch.expect_steps(step_work(job.spec, group.shape))
        step_s = self._board.pace.step_s(run.mark, report, now_s)
        if step_s is not None and report.stage is Stage.DENOISE:
            group.watch.learn_step(step_s)

    def _advance(self, run: Run, report: StepDone, spent_s: float, now_s: float) -> None:
        """Note how far a run is, and that the time since its last report went into this stage."""
        job = self._job_of(run)
        if job is None:
            return
        done = fraction_done(report.stage, report.step, report.num_steps)
        run.delayed = False  # whatever it waited for is there
        changed = job.changed(
            now_s,
            reason=None,
            stage=report.stage,
            step=report.step,
            num_steps=report.num_steps,
            progress=max(job.progress, done),
            stage_s=job.spent(report.stage, spent_s),
        )
        self._board.publish(changed, now_s)

    def _ended(self, run: Run, report: RunEnd, now_s: float) -> None:
        group = self._board.groups[run.lease.group]
        del group.runs[run.lease.job_id]
        if isinstance(report, JobStopped) and not (run.cancelled or report.preempted):
            group.leaving = True
        job = self._job_of(run)
        if job is not None:
            self._settle(job, run, report, now_s)
        elif not isinstance(report, JobFailed):
            # Of one that was left, the stills may be in the store already.
            self._drop_unwanted(run.lease.job_id)

    def _drop_unwanted(self, job_id: str) -> None:
        """Drop what a run has saved, unless the job is, or will be, another attempt's success."""
        job = self._board.jobs.get(job_id)
        if job is None or job.state in (JobState.CANCELLED, JobState.FAILED):
            self._board.emit(DropVideo(job_id))

    def _settle(self, job: Job, run: Run, report: RunEnd, now_s: float) -> None:
        match report:
            case JobFinished():
                if run.decoded and run.mark.done == 0.0:
                    self._board.pace.keep(job.spec, Stage.SAVE, now_s - run.mark.at_s)
                stage_s = job.spent(Stage.SAVE, now_s - run.mark.at_s)
                changes = {"progress": 1.0, "video": report.video, "stage_s": stage_s}
                self._board.save(job.ended(JobState.SUCCEED, now_s, **changes), now_s)
            case JobFailed():
                self._fail(job, report.code, report.reason[:_MAX_REASON_CHARS], now_s)
            case JobStopped():
                self._give_back(job, now_s)
            case _:
                assert_never(report)

    def _retry(self, job: Job, now_s: float) -> None:
        """Return a job to the queue whose attempt was lost, or fail it if that was the last."""
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
        self._board.save(job.queued_again(now_s, num_lost, pause_s), now_s)

    def _fail(self, job: Job, code: ErrorCode, reason: str, now_s: float, **changes: Any) -> None:
        logger.error("job %s failed: %s", job.job_id, reason)
        failed = job.ended(JobState.FAILED, now_s, error_code=code, reason=reason, **changes)
        self._board.save(failed, now_s)

    def _give_back(self, job: Job, now_s: float) -> None:
        """Return a job to the queue whose attempt was left as planned: no chance is lost."""
        self._board.save(job.queued_again(now_s, job.num_lost), now_s)

    def _job_of(self, run: Run) -> Job | None:
        """Return the job of a run; None if it has been cancelled, whatever the run does now."""
        job = self._board.jobs.get(run.lease.job_id)
        return job if job is not None and job.lease == run.lease else None
