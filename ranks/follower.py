"""Runs attempts on a rank, and the main loop of every rank but rank 0."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from torch import Tensor

from broker.process.log import about_job
from broker.store.opening import open_store
from broker.store.store import INPUTS, checkpoint_name
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import RunJob
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from ranks.broker_link import BrokerLink
from ranks.config import RankConfig
from ranks.device import is_out_of_memory
from ranks.engine import Engine
from ranks.errors import GroupStopping, JobError, PeerFailed, RunInterrupted
from ranks.run import NOT_FINITE, LocalJob, Observer, Run
from ranks.sampling.checkpoint import State

logger = logging.getLogger(__name__)

REASONS = {
    ErrorCode.IMAGE_INVALID: "the stored image can no longer be read; submit it again",
    ErrorCode.OUT_OF_MEMORY: "the ranks ran out of memory; ask for a smaller or shorter video",
    ErrorCode.NOT_FINITE: NOT_FINITE,
    ErrorCode.LORA_INVALID: "a LoRA of the job cannot be used; see the server's log",
    ErrorCode.RUN_FAILED: "the video could not be computed; see the server's log",
    ErrorCode.SAVE_FAILED: "the video could not be saved; see the server's log",
}


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """Message from rank 0 to all ranks: a job to run, or None to leave the group together."""

    run: RunJob | None
    is_resumed: bool = False
    """Whether to resume from the job's checkpoint."""


class LinkObserver:
    """Reports the progress of a run to the broker; previews and checkpoints are rank 0's."""

    def __init__(self, link: BrokerLink, lease: Lease) -> None:
        self._link = link
        self._lease = lease

    def enter(self, stage: Stage) -> None:
        self._link.activity.enter(stage)

    def finish_step(self, num_steps: int) -> None:
        self._link.finish_step(self._lease, num_steps)

    def skip_steps(self, steps: Sequence[int]) -> None:
        self._link.activity.skipped_steps = tuple(steps)

    def finish_part(self, done: float, num_steps: int) -> None:
        self._link.finish_part(self._lease, done, num_steps)

    def show(self, latents: Tensor) -> None:
        pass

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        pass  # every rank has the same state; rank 0 saves it


class RankLoop:
    """Runs attempts on one rank.

    Args:
        config: Start parameters of the group.
        engine: Loaded models of this rank.
        link: Connection to the broker.
    """

    def __init__(self, config: RankConfig, engine: Engine, link: BrokerLink) -> None:
        self._config = config
        self._engine = engine
        self._link = link
        self._store = open_store(config.store, config.work_dir)

    def run_attempt(
        self, job: RunJob, is_resumed: bool, observer: Observer, add: Callable[[Tensor], None]
    ) -> RunInterrupted | JobError | None:
        """Run a job together with the other ranks.

        Args:
            job: The job; its files are already on this machine.
            is_resumed: Whether to resume from the job's checkpoint.
            observer: Receives the progress.
            add: Receives the frames `[1, 3, T, H, W]`, on rank 0 only.

        Returns:
            Why the run ended early, or None if it is complete.

        Raises:
            RuntimeError: If the ranks are out of step; this process must end.
        """
        with about_job(job.lease.job_id):
            checkpoint = checkpoint_name(job.lease.job_id)
            try:
                local_job = LocalJob(
                    spec=job.spec,
                    image=self._store.local(f"{INPUTS}/{job.image}"),
                    last_image=self._local_last_image(job),
                    lora_hashes=job.lora_hashes,
                    resume_from=self._store.local(checkpoint) if is_resumed else None,
                )
                outcome = self._run(local_job, observer, add)
                if outcome is not None:
                    self._engine.forget_inputs()
                # Here, where no traceback keeps the tensors of a failed run alive any more.
                self._engine.device.free_memory()
                return outcome
            finally:
                self._link.activity.enter(Stage.IDLE)

    def _local_last_image(self, job: RunJob) -> Path | None:
        return None if job.last_image is None else self._store.local(f"{INPUTS}/{job.last_image}")

    def _run(
        self, job: LocalJob, observer: Observer, add: Callable[[Tensor], None]
    ) -> RunInterrupted | JobError | None:
        try:
            for frames in Run(self._engine, job, observer).frames():
                add(frames)
        except PeerFailed as failed:
            return JobError(failed.code, REASONS[failed.code])
        except RunInterrupted as interruption:
            return interruption.with_traceback(None)
        except Exception as error:
            failure = as_job_error(error)
            # A broken device raises here: this rank ends, and the job is tried again elsewhere.
            self._engine.device.synchronize()
            # If this raises as well, the process ends, and both errors are logged then.
            self._engine.control.report_failure(failure.code)
            logger.exception("the run failed")
            return failure
        return None


class Follower(RankLoop):
    """Any rank but rank 0."""

    def work(self) -> None:
        while True:
            payload = self._engine.control.announce()
            if not payload:
                continue
            announcement = msgspec.msgpack.decode(payload, type=Announcement)
            if announcement.run is None:
                return
            observer = LinkObserver(self._link, announcement.run.lease)
            outcome = self.run_attempt(
                announcement.run, announcement.is_resumed, observer, _ignore_frames
            )
            if isinstance(outcome, GroupStopping):
                return


def as_job_error(error: Exception) -> JobError:
    """Convert any error of a run into one whose text is safe to show to the client."""
    if isinstance(error, JobError):
        return JobError(error.code, error.reason)
    code = ErrorCode.OUT_OF_MEMORY if is_out_of_memory(error) else ErrorCode.RUN_FAILED
    return JobError(code, REASONS[code])


def _ignore_frames(frames: Tensor) -> None:
    pass
