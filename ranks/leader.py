"""Rank 0: receives jobs from the broker, leads the other ranks, and saves the videos."""

import logging
import queue
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from types import FrameType

import msgspec
from torch import Tensor

from broker.process.log import about_job
from broker.store.store import INPUTS, checkpoint_name
from broker.wire.errors import ResultWarning
from broker.wire.group_commands import RunJob
from broker.wire.group_reports import (
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from ranks.broker_link import Activity, BrokerLink
from ranks.config import RankConfig
from ranks.control import ANNOUNCE_EVERY_S, Decision
from ranks.engine import Engine
from ranks.errors import GroupStopping, JobError, RunCancelled, RunInterrupted, RunPreempted
from ranks.follower import Announcement, LinkObserver, RankLoop
from ranks.job_inputs import JobInputs
from ranks.media.latent_colours import fit_colours
from ranks.media.previews import Previews
from ranks.media.video_writer import VideoWriter, save_failure
from ranks.sampling.checkpoint import Checkpoint, SaveSchedule, State, state_hash

logger = logging.getLogger(__name__)

_SAVE_LIMIT_S = 60.0


class _SavingObserver(LinkObserver):
    """Also shows previews and saves checkpoints."""

    def __init__(
        self, link: BrokerLink, lease: Lease, checkpoint: Checkpoint, leader: "Leader"
    ) -> None:
        super().__init__(link, lease)
        self._checkpoint = checkpoint
        self._leader = leader
        self._unsaved: State | None = None
        self._schedule = SaveSchedule(leader.checkpoint_steps)

    def enter(self, stage: Stage) -> None:
        super().enter(stage)
        self._schedule.begin(time.monotonic())

    def show(self, latents: Tensor) -> None:
        self._leader.previews.show(self._lease, latents)

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        # Take it now: a run cannot be resumed from every later step.
        self._unsaved = state()
        if self._schedule.is_due(step, time.monotonic()):
            self.save_latest()

    def save_latest(self) -> None:
        if self._unsaved is not None:
            self._checkpoint.save(self._unsaved)
            self._unsaved = None


class Leader(RankLoop):
    """Rank 0. SIGTERM stops the whole group at the next boundary."""

    def __init__(self, config: RankConfig, engine: Engine, link: BrokerLink) -> None:
        super().__init__(config, engine, link)
        self._store.prepare()
        self.is_stopping = False
        self._lease: Lease | None = None
        self._writers: list[VideoWriter] = []
        vae = engine.models.vae
        scale: int = vae.config.scale_factor_spatial
        self.previews = Previews(fit_colours(vae), scale, link.preview)
        engine.control.decide = self._decide
        signal.signal(signal.SIGTERM, self._stop)

    @property
    def checkpoint_steps(self) -> int:
        return self._config.checkpoint_steps

    def work(self) -> None:
        self._link.group_ready(self._engine.shape)
        while not self.is_stopping:
            job = self._next_job()
            if job is None:
                self._engine.control.announce()
                continue
            with about_job(job.lease.job_id):
                outcome = self._run_job(job)
            if isinstance(outcome, GroupStopping):
                break
        else:
            self._announce(Announcement(run=None))
        for writer in self._writers:
            writer.stop_waiting()
            writer.wait(_SAVE_LIMIT_S)

    def _stop(self, signal_number: int, frame: FrameType | None) -> None:
        self.is_stopping = True
        self._link.commands.put(None)

    def _next_job(self) -> RunJob | None:
        try:
            return self._link.commands.get(timeout=ANNOUNCE_EVERY_S)
        except queue.Empty:
            return None

    def _announce(self, announcement: Announcement) -> None:
        self._engine.control.announce(msgspec.msgpack.encode(announcement))

    def _decide(self) -> Decision:
        if self.is_stopping:
            return Decision.STOP
        if self._lease is not None and self._link.is_cancelled(self._lease):
            return Decision.CANCEL
        if self._lease is not None and self._link.is_preempted(self._lease):
            return Decision.PREEMPT if is_preemptible(self._link.activity) else Decision.GO_ON
        return Decision.GO_ON

    def _run_job(self, job: RunJob) -> RunInterrupted | JobError | None:
        logger.info("attempt %d begins", job.lease.attempt)
        self._lease = job.lease
        num_tokens = self._engine.prompts.num_tokens(job.spec.prompt)
        self._link.report(JobStarted(lease=job.lease, prompt_tokens=num_tokens))
        model_hash = state_hash(
            self._engine.shape.model, job, self._engine.device.unusual_vae_dtype
        )
        inputs = JobInputs(
            self._store,
            job,
            partial(self._raise_if_interrupted, job.lease),
            self._delay_reporter(job.lease),
            model_hash,
        )
        try:
            is_resumed = self._await(inputs.begin())
        except (RunInterrupted, JobError) as cause:
            # The job has not been announced: the other ranks need not agree.
            self._lease = None
            logger.info("the run ended before it began: %s", _cause(cause))
            inputs.release()
            self._link.report(_end_report(job.lease, cause))
            return None
        self._announce(Announcement(run=job, is_resumed=is_resumed))
        checkpoint = Checkpoint(self._store, checkpoint_name(job.lease.job_id), model_hash)
        observer = _SavingObserver(self._link, job.lease, checkpoint, self)
        writer = self._writer(job, checkpoint)
        outcome = self.run_attempt(job, is_resumed, observer, writer.add)
        inputs.release()
        self.previews.end()
        self._lease = None
        if outcome is None:
            self._finish_video(job.lease, writer)
            return None
        logger.info("the run ended early: %s", _cause(outcome))
        writer.abandon()
        # Before the report: after it, another attempt may use the file.
        if isinstance(outcome, GroupStopping | RunPreempted):
            observer.save_latest()
            checkpoint.close()
        else:
            checkpoint.discard()
        self._link.report(_end_report(job.lease, outcome))
        return outcome

    def _finish_video(self, lease: Lease, writer: VideoWriter) -> None:
        logger.info("decoded")
        # Report before `finish`, whose thread sends the final report.
        self._link.report(JobDecoded(lease=lease))
        writer.finish()
        self._writers = [*(old for old in self._writers if old.is_writing), writer]

    def _await(self, fetching: "Future[bool]") -> bool:
        while not wait([fetching], ANNOUNCE_EVERY_S).done:
            # Keeps the idle ranks from timing out.
            self._engine.control.announce()
        return fetching.result()

    def _raise_if_interrupted(self, lease: Lease) -> None:
        if self.is_stopping:
            raise GroupStopping
        if self._link.is_cancelled(lease):
            raise RunCancelled

    def _delay_reporter(self, lease: Lease) -> Callable[[str], None]:
        return lambda reason: self._link.report(JobDelayed(lease=lease, reason=reason))

    def _writer(self, job: RunJob, checkpoint: Checkpoint) -> VideoWriter:
        return VideoWriter(
            job.lease,
            job.spec,
            self._engine.shape.model,
            self._store.local(f"{INPUTS}/{job.image}"),
            self._store,
            partial(self._link.is_cancelled, job.lease),
            self._delay_reporter(job.lease),
            partial(self._on_saved, job.lease, checkpoint),
        )

    def _on_saved(
        self,
        lease: Lease,
        checkpoint: Checkpoint,
        failure: Exception | None,
        warning: ResultWarning | None,
    ) -> None:
        # Called in the writer's thread.
        if isinstance(failure, GroupStopping):
            checkpoint.close()  # the next start of the group resumes from it
        else:
            checkpoint.discard()
        if failure is None:
            logger.info("saved")
            video = f"{lease.job_id}.mp4"
            self._link.report(JobFinished(lease=lease, video=video, warning=warning))
        else:
            outcome = failure if isinstance(failure, RunInterrupted) else save_failure()
            self._link.report(_end_report(lease, outcome))


def is_preemptible(activity: Activity) -> bool:
    """Return whether a run should leave now, rather than finish its stage or its step."""
    # Finishing a decode, or the second half of a step, takes less time than resuming the job later
    # and repeating what was done of the step.
    return activity.stage in (Stage.ENCODE, Stage.DENOISE) and activity.part < 0.5


def _cause(outcome: RunInterrupted | JobError) -> str:
    match outcome:
        case JobError():
            return f"{outcome.code}, {outcome.reason}"
        case RunCancelled():
            return "the job is cancelled"
        case RunPreempted():
            return "a more urgent job needs the group"
        case _:
            return "the group stops"


def _end_report(lease: Lease, outcome: RunInterrupted | JobError) -> JobFailed | JobStopped:
    if isinstance(outcome, JobError):
        return JobFailed(lease=lease, code=outcome.code, reason=outcome.reason)
    return JobStopped(lease=lease, preempted=isinstance(outcome, RunPreempted))
