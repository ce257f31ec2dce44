"""What a rank does between its start and its end: take part in whatever rank 0 announces."""

import logging
from collections.abc import Callable

import msgspec
from torch import Tensor

from broker.process.log import about_job
from broker.store.opening import open_store
from broker.store.store import INPUTS, checkpoint_name
from broker.wire.job import Stage
from broker.wire.protocol import ErrorCode, Lease, RunJob
from ranks.broker_link import BrokerLink
from ranks.checkpoint import State
from ranks.config import RankConfig
from ranks.device import is_out_of_memory
from ranks.engine import Engine
from ranks.errors import GroupStopping, JobError, PeerFailed, RunLeft
from ranks.run import Observer, Run, Task

logger = logging.getLogger(__name__)

REASONS = {
    ErrorCode.IMAGE_INVALID: "the stored image cannot be read any more; submit it again",
    ErrorCode.OUT_OF_MEMORY: "the ranks ran out of memory; ask for a smaller or shorter video",
    ErrorCode.RUN_FAILED: "the video could not be computed; the server's log says why",
    ErrorCode.SAVE_FAILED: "the video could not be saved; the server's log says why",
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What rank 0 announces: a run, or None to leave the group together."""

    run: RunJob | None
    is_resumed: bool = False
    """Whether the run goes on from the job's checkpoint."""


class LinkObserver:
    """Passes the progress of a run on to the broker."""

    def __init__(self, link: BrokerLink, lease: Lease) -> None:
        self._link = link
        self._lease = lease

    def enter(self, stage: Stage) -> None:
        """Show the stage in the beats."""
        self._link.activity.enter(stage)

    def finish_step(self, num_steps: int) -> None:
        """Tell the step."""
        self._link.finish_step(self._lease, num_steps)

    def show(self, latents: Tensor) -> None:
        """Leave the previews to rank 0."""

    def keep(self, step: int, state: Callable[[], State]) -> None:
        """Leave the saving to rank 0: every rank has the same state."""


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
        self._store = open_store(config.store, config.work_dir)

    def attempt(
        self, job: RunJob, is_resumed: bool, observer: Observer, take: Callable[[Tensor], None]
    ) -> RunLeft | JobError | None:
        """Run a job together with the other ranks; return what kept it from its end, if anything.

        Args:
            job: What to make.
            is_resumed: Whether to go on from the job's checkpoint.
            observer: Told of the progress.
            take: Gets the frames, on rank 0.

        Raises:
            RuntimeError: If the ranks no longer agree; this process must end.
        """
        with about_job(job.lease.job_id):
            state = checkpoint_name(job.lease.job_id)
            try:
                task = Task(
                    spec=job.spec,
                    image=self._store.local(f"{INPUTS}/{job.image}"),
                    resume_from=self._store.local(state) if is_resumed else None,
                )
                outcome = self._run(task, observer, take)
                if outcome is not None:
                    self._engine.prompts.forget()
                # Here, where no traceback keeps the tensors of a failed run alive any more.
                self._engine.device.free_memory()
                return outcome
            finally:
                self._link.activity.enter(Stage.IDLE)

    def _run(
        self, task: Task, observer: Observer, take: Callable[[Tensor], None]
    ) -> RunLeft | JobError | None:
        try:
            for frames in Run(self._engine, task, observer).frames():
                take(frames)
        except PeerFailed as failed:
            return JobError(failed.code, REASONS[failed.code])
        except RunLeft as left:
            return left.with_traceback(None)
        except Exception as error:
            failure = as_job_error(error)
            # A broken device raises once more: this rank ends, and the job is tried again.
            self._engine.device.synchronize()
            # If the others do not come either, this error ends the process, and is logged then.
            self._engine.control.report_failure(failure.code)
            logger.exception("the run failed")
            return failure
        return None


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
            observer = LinkObserver(self._link, order.run.lease)
            outcome = self.attempt(order.run, order.is_resumed, observer, _drop)
            if isinstance(outcome, GroupStopping):
                return


def as_job_error(error: Exception) -> JobError:
    """Return what a client is told of an error in a run."""
    if isinstance(error, JobError):
        return JobError(error.code, error.reason)
    code = ErrorCode.OUT_OF_MEMORY if is_out_of_memory(error) else ErrorCode.RUN_FAILED
    return JobError(code, REASONS[code])


def _drop(frames: Tensor) -> None:
    """Ignore frames: only rank 0 saves them, and only it gets any."""
