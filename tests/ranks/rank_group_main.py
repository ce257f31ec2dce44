"""The ranks' end of `RankGroup`."""

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from broker.process.log import configure_logging
from broker.store.folder import FolderStore
from broker.store.store import CHECKPOINTS, INPUTS
from broker.wire.job import Stage
from ranks.config import RankConfig
from ranks.control import ANNOUNCE_EVERY_S, Decision
from ranks.device import open_device
from ranks.engine import Engine
from ranks.errors import RunInterrupted
from ranks.follower import as_job_error
from ranks.parallel.process_group import leave
from ranks.run import LocalJob, Run
from ranks.sampling.checkpoint import State, save_state
from ranks.serve import start_engine
from tests.ranks.rank_group import GroupTask, RankReport


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=RankConfig)
    pids = [_fork(config, rank) for rank in range(config.world_size)]
    # Only rank 0 reads tasks. This process must close its copy of the pipe's end.
    os.close(0)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    sys.exit(any(codes))


def _fork(config: RankConfig, rank: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            configure_logging(f"rank-{rank}", "text")
            _work(config, rank)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def _work(config: RankConfig, rank: int) -> None:
    device = open_device("cpu", rank, config.world_size)
    with torch.inference_mode(), device.attention_order():
        engine = start_engine(config, rank, device)
        while True:
            task_or_end = _next_task(engine)
            if task_or_end is None:
                break
            _TaskRun(config, engine, task_or_end).do()
            dist.barrier(engine.world.control_group)
            if rank == 0:
                os.write(1, b"%d\n" % task_or_end.number)
    leave()


def _next_task(engine: Engine) -> GroupTask | None:
    """Return the next task on every rank, or None after the last."""
    payload = b""
    while not payload:
        if engine.world.rank == 0 and select.select([0], [], [], ANNOUNCE_EVERY_S)[0]:
            payload = sys.stdin.buffer.readline() or b"null"
        payload = engine.control.announce(payload)
    return msgspec.json.decode(payload, type=GroupTask | None)


_STATE = f"{CHECKPOINTS}/state.safetensors"


class _TaskRun:
    """Runs one task on one rank, as the observer of its run."""

    def __init__(self, config: RankConfig, engine: Engine, task: GroupTask) -> None:
        self._config, self._engine, self._task = config, engine, task
        self._store = FolderStore(Path(config.store))
        self._results = Path(config.store) / "results"
        self._stage = Stage.IDLE
        self._step = self._num_meetings = 0
        self._num_steps = task.job.spec.infer_steps

    def do(self) -> None:
        """Run the task and write a report."""
        self._engine.control.decide = self._decide
        outcome, frames = "done", list[Tensor]()
        job = LocalJob(
            spec=self._task.job.spec,
            image=self._store.local(f"{INPUTS}/{self._task.job.image}"),
            resume_from=self._store.local(_STATE) if self._task.is_resumed else None,
        )
        try:
            frames += Run(self._engine, job, self).frames()
        except RunInterrupted as interruption:
            outcome, frames = type(interruption).__name__, []
        except Exception as error:  # noqa: BLE001 (reported to the test)
            outcome, frames = repr(error), []
            self._engine.control.report_failure(as_job_error(error).code)
        if frames:
            path = self._results / f"{self._task.number}.safetensors"
            safetensors.torch.save_file({"frames": torch.cat(frames, dim=2)}, path)
        self._write_report(outcome)

    def enter(self, stage: Stage) -> None:
        self._stage, self._step = stage, 0

    def finish_step(self, num_steps: int) -> None:
        """Count the step; fail here if the task asks for it."""
        self._step += 1
        self._num_meetings += 1
        is_here = self._engine.world.rank == self._task.fail_rank
        if is_here and self._stage is Stage.DENOISE and self._step == 2:
            raise ValueError("failure that the test asked for")

    def show(self, latents: Tensor) -> None:
        pass

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        """Save or change the state if the task asks for it."""
        if self._engine.world.rank == self._task.drift_rank and step == self._num_steps:
            state()["latents"].add_(0.01)
        if self._engine.world.rank == 0 and step == self._task.keep_step:
            save_state(state(), self._store, _STATE)

    def _write_report(self, outcome: str) -> None:
        rank = self._engine.world.rank
        report = RankReport(rank=rank, outcome=outcome, num_meetings=self._num_meetings)
        path = self._results / f"{self._task.number}.{rank}.json"
        path.write_bytes(msgspec.json.encode(report))

    def _decide(self) -> Decision:
        is_cancelled = self._num_meetings == self._task.cancel_at_meeting
        return Decision.CANCEL if is_cancelled else Decision.GO_ON
