"""Rank 0: takes runs from the broker, leads the other ranks through them, saves the videos."""

import logging
import queue
import signal
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from types import FrameType

import msgspec
from torch import Tensor

from broker.process.log import about_job
from broker.store.store import checkpoint_name
from broker.wire.job import Stage
from broker.wire.protocol import (
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    Lease,
    RunJob,
)
from ranks.broker_link import BrokerLink
from ranks.sampling.checkpoint import Checkpoint, State
from ranks.config import RankConfig
from ranks.control import ANNOUNCE_EVERY_S, Decision
from ranks.engine import Engine
from ranks.errors import GroupStopping, JobError, RunCancelled, RunInterrupted, RunPreempted
from ranks.follower import LinkObserver, Announcement, RankLoop
from ranks.job_inputs import JobInputs
from ranks.media.latent_colours import fit_colours
from ranks.media.previews import Previews
from ranks.media.video_writer import VideoWriter, save_failure

logger = logging.getLogger(__name__)

_SAVE_LIMIT_S = 60.0


class _SavingObserver(LinkObserver):
    """Shows previews and saves states: now and then, and the last one of a run that will go on."""

    def __init__(
        self, link: BrokerLink, lease: Lease, checkpoint: Checkpoint, leader: "Leader"
    ) -> None:
        super().__init__(link, lease)
        self._checkpoint = checkpoint
        self._leader = leader
        self._unsaved: State | None = None

    def show(self, latents: Tensor) -> None:
        """Hand the latents to those who make pictures of them."""
        self._leader.previews.show(self._lease, latents)

    def keep(self, step: int, state: Callable[[], State]) -> None:
        """Save the state if it is time for it, and else have it at hand."""
        # Now, since not every later step is one from which a run can go on.
        self._unsaved = state()
        if step % self._leader.checkpoint_steps == 0:
            self.save_latest()

    def save_latest(self) -> None:
        """Save the latest state unless that has been done."""
        if self._unsaved is not None:
            self._checkpoint.keep(self._unsaved)
            self._unsaved = None


class Leader(RankLoop):
    """Rank 0. SIGTERM makes the whole group stop at the next boundary."""

    def __init__(self, config: RankConfig, engine: Engine, link: BrokerLink) -> None:
        super().__init__(config, engine, link)
        self._store.prepare()
        self.is_stopping = False
        self._lease: Lease | None = None
        self._writers: list[VideoWriter] = []
        self.previews = Previews(fit_colours(engine.models.vae), link.preview)
        engine.control.decide = self._decide
        signal.signal(signal.SIGTERM, self._stop)

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two saved states."""
        return self._config.checkpoint_steps

    def work(self) -> None:
        """Lead run after run until SIGTERM."""
        self._link.group_ready(self._engine.shape)
        while not self.is_stopping:
            job = self._next_job()
            if job is None:
                self._engine.control.announce()
                continue
            with about_job(job.lease.job_id):
                outcome = self._lead(job)
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

    def _announce(self, order: Announcement) -> None:
        self._engine.control.announce(msgspec.msgpack.encode(order))

    def _decide(self) -> Decision:
        if self.is_stopping:
            return Decision.STOP
        if self._lease is not None and self._link.is_cancelled(self._lease):
            return Decision.CANCEL
        if self._lease is not None and self._link.is_preempted(self._lease):
            # What is left of a run that decodes takes less time than it would to begin again.
            has_far_to_go = self._link.activity.stage in (Stage.ENCODE, Stage.DENOISE)
            return Decision.PREEMPT if has_far_to_go else Decision.GO_ON
        return Decision.GO_ON

    def _lead(self, job: RunJob) -> RunInterrupted | JobError | None:
        """Lead all ranks through a run and tell the broker how it ended."""
        logger.info("attempt %d begins", job.lease.attempt)
        self._lease = job.lease
        self._link.report(JobStarted(lease=job.lease))
        supplies = JobInputs(
            self._store, job, partial(self._leave_early, job.lease), self._delayed(job.lease)
        )
        try:
            is_resumed = self._await(supplies.begin())
        except (RunInterrupted, JobError) as early:
            # The other ranks have not heard of the run.
            self._lease = None
            logger.info("left before it began: %r", early)
            supplies.release()
            self._link.report(_ending(job.lease, early))
            return None
        self._announce(Announcement(run=job, is_resumed=is_resumed))
        checkpoint = Checkpoint(self._store, checkpoint_name(job.lease.job_id))
        observer = _SavingObserver(self._link, job.lease, checkpoint, self)
        writer = self._writer(job, checkpoint)
        outcome = self.attempt(job, is_resumed, observer, writer.add)
        supplies.release()
        self.previews.end()
        self._lease = None
        if outcome is None:
            logger.info("decoded")
            # In this order, so that the broker hears of the end last.
            self._link.report(JobDecoded(lease=job.lease))
            writer.finish()
            self._writers = [*(old for old in self._writers if old.is_writing), writer]
            return None
        logger.info("left: %r", outcome)
        writer.abandon()
        # Before the report: once it is out, another attempt may use the file.
        if isinstance(outcome, GroupStopping | RunPreempted):
            observer.save_latest()
            checkpoint.close()
        else:
            checkpoint.discard()
        self._link.report(_ending(job.lease, outcome))
        return outcome

    def _await(self, bringing: "Future[bool]") -> bool:
        """Return what a thread has found out; the other ranks, idle, hear something meanwhile."""
        while not wait([bringing], ANNOUNCE_EVERY_S).done:
            self._engine.control.announce()
        return bringing.result()

    def _leave_early(self, lease: Lease) -> None:
        if self.is_stopping:
            raise GroupStopping
        if self._link.is_cancelled(lease):
            raise RunCancelled

    def _delayed(self, lease: Lease) -> Callable[[str], None]:
        """Return what tells the broker that a run waits for something outside of the group."""
        return lambda reason: self._link.report(JobDelayed(lease=lease, reason=reason))

    def _writer(self, job: RunJob, checkpoint: Checkpoint) -> VideoWriter:
        return VideoWriter(
            job.lease,
            job.spec,
            self._store,
            partial(self._link.is_cancelled, job.lease),
            self._delayed(job.lease),
            partial(self._saved, job.lease, checkpoint),
        )

    def _saved(self, lease: Lease, checkpoint: Checkpoint, failure: Exception | None) -> None:
        """Tell the broker how the saving ended; called by a writer's thread."""
        if isinstance(failure, GroupStopping):
            checkpoint.close()  # another life of the group goes on from it
        else:
            checkpoint.discard()
        if failure is None:
            logger.info("saved")
            self._link.report(JobFinished(lease=lease, video=f"{lease.job_id}.mp4"))
        else:
            outcome = failure if isinstance(failure, RunInterrupted) else save_failure()
            self._link.report(_ending(lease, outcome))


def _ending(lease: Lease, outcome: RunInterrupted | JobError) -> JobFailed | JobStopped:
    if isinstance(outcome, JobError):
        return JobFailed(lease=lease, code=outcome.code, reason=outcome.reason)
    return JobStopped(lease=lease, preempted=isinstance(outcome, RunPreempted))
