"""What a rank does between its start and its end: take part in whatever rank 0 announces."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from torch import Tensor

from broker.job import Stage
from broker.log import current_job
from broker.protocol import ErrorCode, Lease, RunJob
from ranks.broker_link import BrokerLink
from ranks.config import RankConfig
from ranks.device import is_out_of_memory
from ranks.errors import GroupStopping, JobError, PeerFailed, RunLeft
from ranks.run import Engine, Run

logger = logging.getLogger(__name__)

_REASONS = {
    ErrorCode.IMAGE_INVALID: "the stored image cannot be read any more; submit it again",
    ErrorCode.OUT_OF_MEMORY: "the ranks ran out of memory; ask for a smaller or shorter video",
    ErrorCode.RUN_FAILED: "the video could not be computed; the server's log says why",
    ErrorCode.SAVE_FAILED: "the video could not be saved; the server's log says why",
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What rank 0 announces: a run, or None to leave the group together."""

    run: RunJob | None


class Worker:
    """A loaded rank.

    Args:
        config: Of the group.
        engine: Of this rank.
        link: To the broker.
    """

    def __init__(self, config: RankConfig, engine: Engine, link: BrokerLink) -> None:
        self._config = config
        self._engine = engine
        self._link = link

    def attempt(self, job: RunJob, take: Callable[[Tensor], None]) -> RunLeft | JobError | None:
        """Run a job together with the other ranks; return what kept it from its end, if anything.

        Args:
            job: What to make.
            take: Gets the frames, on rank 0.

        Raises:
            RuntimeError: If the ranks no longer agree; this process must end.
        """
        token = current_job.set(job.lease.job_id)
        try:
            outcome = self._run(job, take)
            if outcome is not None:
                self._engine.prompts.forget()
            # Here, where no traceback keeps the tensors of a failed run alive any more.
            self._engine.device.free_memory()
            return outcome
        finally:
            self._link.activity.enter(Stage.IDLE)
            current_job.reset(token)

    def _run(self, job: RunJob, take: Callable[[Tensor], None]) -> RunLeft | JobError | None:
        enter, finish_step = self._link.activity.enter, partial(self._finish_step, job.lease)
        try:
            run = Run(self._engine, job, Path(self._config.inputs_dir), enter, finish_step)
            for frames in run.frames():
                take(frames)
        except PeerFailed as failed:
            return JobError(failed.code, _REASONS[failed.code])
        except RunLeft as left:
            return left.with_traceback(None)
        except Exception as error:
            logger.exception("the run failed")
            failure = as_job_error(error)
            self._engine.control.report_failure(failure.code)
            return failure
        return None

    def _finish_step(self, lease: Lease, num_steps: int) -> None:
        self._link.finish_step(lease, num_steps)


class Follower(Worker):
    """Every rank but rank 0."""

    def work(self) -> None:
        """Take part in run after run until the group stops."""
        while True:
            payload = self._engine.control.announce()
            if not payload:
                continue
            order = msgspec.msgpack.decode(payload, type=Order)
            if order.run is None:
                return
            outcome = self.attempt(order.run, _drop)
            if isinstance(outcome, GroupStopping):
                return


def as_job_error(error: Exception) -> JobError:
    """Return what a client is told of an error in a run."""
    if isinstance(error, JobError):
        return JobError(error.code, error.reason)
    code = ErrorCode.OUT_OF_MEMORY if is_out_of_memory(error) else ErrorCode.RUN_FAILED
    return JobError(code, _REASONS[code])


def _drop(frames: Tensor) -> None:
    """Ignore frames: only rank 0 saves them, and only it gets any."""
