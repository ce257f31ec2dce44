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

from broker.folder_store import FolderStore
from broker.job import Stage
from broker.log import configure_logging
from broker.store import CHECKPOINTS, INPUTS
from ranks.checkpoint import State, save_state
from ranks.config import RankConfig
from ranks.control import ANNOUNCE_EVERY_S, Word
from ranks.device import open_device
from ranks.engine import Engine
from ranks.errors import RunLeft
from ranks.follower import as_job_error
from ranks.process_group import leave
from ranks.run import Run, Task
from ranks.serve import start_engine
from tests.ranks.rank_group import Finding, GroupTask


def main() -> None:
    """Fork the ranks and wait for them."""
    config = msgspec.json.decode(sys.argv[1], type=RankConfig)
    pids = [_fork(config, rank) for rank in range(config.world_size)]
    # Only rank 0 reads tasks; this end must not keep it from seeing the end of them.
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
            task_or_end = _hear(engine)
            if task_or_end is None:
                break
            _TaskRun(config, engine, task_or_end).do()
            dist.barrier(engine.world.control_group)
            if rank == 0:
                os.write(1, b"%d\n" % task_or_end.number)
    leave()


def _hear(engine: Engine) -> GroupTask | None:
    """Return the next task on every rank, None when there will be no more."""
    payload = b""
    while not payload:
        if engine.world.rank == 0 and select.select([0], [], [], ANNOUNCE_EVERY_S)[0]:
            payload = sys.stdin.buffer.readline() or b"null"
        payload = engine.control.announce(payload)
    return msgspec.json.decode(payload, type=GroupTask | None)


_STATE = f"{CHECKPOINTS}/state.safetensors"


class _TaskRun:
    """One task on one rank, and its observer."""

    def __init__(self, config: RankConfig, engine: Engine, task: GroupTask) -> None:
        self._config, self._engine, self._task = config, engine, task
        self._store = FolderStore(Path(config.store))
        self._results = Path(config.store) / "results"
        self._stage = Stage.IDLE
        self._step = self._meetings = 0
        self._num_steps = task.job.spec.infer_steps

    def do(self) -> None:
        """Run it and write what was found."""
        self._engine.control.decide = self._decide
        outcome, frames = "done", list[Tensor]()
        task = Task(
            spec=self._task.job.spec,
            image=self._store.local(f"{INPUTS}/{self._task.job.image}"),
            resume_from=self._store.local(_STATE) if self._task.is_resumed else None,
        )
        try:
            frames += Run(self._engine, task, self).frames()
        except RunLeft as left:
            outcome, frames = type(left).__name__, []
        except Exception as error:  # noqa: BLE001 (told to the test)
            outcome, frames = repr(error), []
            self._engine.control.report_failure(as_job_error(error).code)
        if frames:
            path = self._results / f"{self._task.number}.safetensors"
            safetensors.torch.save_file({"frames": torch.cat(frames, dim=2)}, path)
        self._tell(outcome)

    def enter(self, stage: Stage) -> None:
        """Note the stage."""
        self._stage, self._step = stage, 0

    def finish_step(self, num_steps: int) -> None:
        """Count; fail if told to."""
        self._step += 1
        self._meetings += 1
        is_here = self._engine.world.rank == self._task.fail_rank
        if is_here and self._stage is Stage.DENOISE and self._step == 2:
            raise ValueError("told to fail")

    def show(self, latents: Tensor) -> None:
        """Show nothing."""

    def keep(self, step: int, state: Callable[[], State]) -> None:
        """Save the state, or change it, if told to."""
        if self._engine.world.rank == self._task.drift_rank and step == self._num_steps:
            state()["latents"].add_(0.01)
        if self._engine.world.rank == 0 and step == self._task.keep_step:
            save_state(state(), self._store, _STATE)

    def _tell(self, outcome: str) -> None:
        rank = self._engine.world.rank
        finding = Finding(rank=rank, outcome=outcome, meetings=self._meetings)
        path = self._results / f"{self._task.number}.{rank}.json"
        path.write_bytes(msgspec.json.encode(finding))

    def _decide(self) -> Word:
        return Word.CANCEL if self._meetings == self._task.cancel_at_meeting else Word.GO_ON
