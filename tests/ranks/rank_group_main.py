"""The ranks' end of `RankGroup`."""

import logging
import os
import select
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import msgspec
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from broker.process.child import die_with_parent
from broker.process.log import configure_logging
from broker.store.folder import FolderStore
from broker.store.store import CHECKPOINTS, INPUTS
from broker.wire.job import Stage
from ranks.config import RankConfig
from ranks.control import ANNOUNCE_EVERY_S, Decision
from ranks.device import Device, open_device
from ranks.engine import Engine
from ranks.errors import RunInterrupted
from ranks.follower import as_job_error
from ranks.model.conditioning import Models
from ranks.parallel.process_group import leave
from ranks.run import LocalJob, Run
from ranks.sampling.checkpoint import State, save_state
from ranks.sampling.step_parts import StepPace
from ranks.serve import start_engine
from tests.ranks.rank_group import GroupStart, GroupTask, RankReport, shape_path

logger = logging.getLogger(__name__)


def main(argument: str) -> None:
    """Fork all ranks and wait for them; with this process, the others of a lost rank end, too."""
    start = msgspec.json.decode(argument, type=GroupStart)
    running = {_fork(start, rank) for rank in range(start.config.world_size)}
    # Only rank 0 reads tasks; this end must not keep it from seeing the end of them.
    os.close(0)
    while running:
        pid, status = os.wait()
        if status != 0:
            code = os.waitstatus_to_exitcode(status)
            sys.stderr.write(f"a rank has ended with code {code}\n")
            sys.exit(1)
        running.remove(pid)


def _fork(start: GroupStart, rank: int) -> int:
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(parent_pid)
        _live(start, rank)
    return pid


def _live(start: GroupStart, rank: int) -> NoReturn:
    code = 1
    try:
        configure_logging(f"rank-{rank}", "text")
        with _patched(start.patch):
            _work(start.config, rank)
        code = 0
    except Exception:
        logger.exception("rank %d fails outside of a run", rank)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _patched(patch: str | None) -> AbstractContextManager[object]:
    if patch is None:
        return nullcontext()
    module, name, *arguments = patch.split(":")
    made: AbstractContextManager[object] = getattr(import_module(module), name)(*arguments)
    return made


def _work(config: RankConfig, rank: int) -> None:
    device = open_device(config.device, rank, config.world_size)
    with torch.inference_mode(), device.attention_order():
        engine = start_engine(config, rank, device)
        if rank == 0:
            shape_path(Path(config.store)).write_bytes(msgspec.json.encode(engine.shape))
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
        self._meter = _Meter(engine.device)
        self._stage = Stage.IDLE
        self._step = self._num_meetings = self._num_parts = 0
        self._skipped_steps: tuple[int, ...] = ()
        if task.num_parts is not None:
            engine.pace = _Proposal(task.num_parts if engine.world.rank == 0 else 1)
        self._spec = msgspec.structs.replace(
            task.job.spec, infer_steps=task.num_steps, num_frames=task.num_frames
        )

    def do(self) -> None:
        """Run it and write what was found."""
        self._engine.control.decide = self._decide
        with _patched(self._task.patch):
            outcome, frames = self._run()
        self._meter.stop()
        if outcome != "done":
            self._engine.forget_inputs()  # on every rank, as in the product
        if frames:
            path = self._results / f"{self._task.number}.safetensors"
            safetensors.torch.save_file({"frames": torch.cat(frames, dim=2)}, path)
        frames.clear()
        self._write_report(outcome)

    def _run(self) -> tuple[str, list[Tensor]]:
        last = self._task.job.last_image
        job = LocalJob(
            spec=self._spec,
            image=self._store.local(f"{INPUTS}/{self._task.job.image}"),
            last_image=None if last is None else self._store.local(f"{INPUTS}/{last}"),
            resume_from=self._store.local(_STATE) if self._task.is_resumed else None,
        )
        try:
            # To the host at once, as the product does: they would take the device's memory.
            return "done", [part.cpu() for part in Run(self._engine, job, self).frames()]
        except RunInterrupted as left:
            return type(left).__name__, []
        except Exception as error:  # noqa: BLE001 (told to the test)
            self._engine.control.report_failure(as_job_error(error).code)
            return repr(error), []

    def enter(self, stage: Stage) -> None:
        """Note the stage."""
        self._stage, self._step = stage, 0
        self._meter.begin_step()

    def finish_step(self, num_steps: int) -> None:
        """Count; fail if told to."""
        self._step += 1
        self._num_meetings += 1
        self._meter.finish_step(self._stage)
        is_here = self._engine.world.rank == self._task.fail_rank
        if is_here and self._stage is Stage.DENOISE and self._step == 2:
            raise ValueError("failure that the test asked for")

    def skip_steps(self, steps: Sequence[int]) -> None:
        """Note them."""
        self._skipped_steps = tuple(steps)

    def finish_part(self, done: float, num_steps: int) -> None:
        """Count."""
        assert 0.0 < done < 1.0
        self._num_parts += 1

    def show(self, latents: Tensor) -> None:
        """Show nothing."""

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        """Save the state, or change it, if told to."""
        if self._engine.world.rank == self._task.drift_rank and step == self._spec.infer_steps:
            state()["latents"].add_(0.01)
        if self._engine.world.rank == 0 and step == self._task.keep_step:
            save_state(state(), self._store, _STATE)

    def _write_report(self, outcome: str) -> None:
        rank = self._engine.world.rank
        report = RankReport(
            rank=rank,
            outcome=outcome,
            num_meetings=self._num_meetings,
            skipped_steps=self._skipped_steps,
            num_parts=self._num_parts,
            is_tidy=_are_tidy(self._engine.models),
            host_waits=self._meter.host_waits,
            counts=self._meter.counts,
            held_bytes=self._meter.held_bytes(),
            peak_bytes=self._meter.peak_bytes,
        )
        path = self._results / f"{self._task.number}.{rank}.json"
        path.write_bytes(msgspec.json.encode(report))

    def _decide(self) -> Decision:
        is_over = (
            self._num_meetings == self._task.cancel_at_meeting
            or self._num_parts == self._task.cancel_at_part
        )
        return Decision.CANCEL if is_over else Decision.GO_ON


class _Proposal(StepPace):
    """Proposes the same number of parts for each step."""

    def __init__(self, num_parts: int) -> None:
        super().__init__()
        self._num_parts = num_parts

    def num_parts(self, work: float) -> int:
        return self._num_parts


def _are_tidy(models: Models) -> bool:
    transformers = [_is_tidy(each, each.model.blocks) for each in models.transformers]
    return all(transformers) and _is_tidy(models.text_encoder, models.text_encoder.encoder.block)


def _is_tidy(root: nn.Module, blocks: nn.Module) -> bool:
    if not isinstance(root, FSDPModule):
        return True
    is_open = root._get_fsdp_state()._state_ctx.iter_forward_root is not None
    return not is_open and all(isinstance(weight, DTensor) for weight in blocks.parameters())


class _Meter:
    """What the stand-in NPU counts in a run; elsewhere all is 0."""

    def __init__(self, device: Device) -> None:
        self._npu = import_module("torch_npu.npu") if device.kind == "npu" else None
        self._begin = self._step_begin = self._now()
        self.host_waits: list[int] = []
        self.counts: dict[str, int] = {}
        self.peak_bytes = 0
        if self._npu is not None:
            self._npu.reset_peak_memory_stats()

    def begin_step(self) -> None:
        """Count for a step from here on."""
        self._step_begin = self._now()

    def finish_step(self, stage: Stage) -> None:
        """Note how often the host waited in a denoising step."""
        if stage is Stage.DENOISE:
            passed = self._now() - self._step_begin
            self.host_waits.append(sum(passed[kind] for kind in _HOST_WAITS))
        self.begin_step()

    def stop(self) -> None:
        """Note what there was in the run."""
        self.counts = dict(self._now() - self._begin)
        if self._npu is not None:
            self.peak_bytes = self._npu.max_memory_allocated()

    def held_bytes(self) -> int:
        """Return what the device holds now."""
        if self._npu is None:
            return 0
        self._npu.empty_cache()
        held: int = self._npu.memory_allocated()
        return held

    def _now(self) -> Counter[str]:
        return Counter({} if self._npu is None else self._npu.counts())


_HOST_WAITS = ("copy to host", "item", "synchronize")
