"""A rank that runs jobs one after the other, without a broker: its engine, and what it notes."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from torch import Tensor

from broker.process.log import configure_logging
from broker.wire.job import JobSpec, Stage
from ranks.config import DeviceKind
from ranks.device import Device, open_device
from ranks.engine import Engine
from ranks.environment import set_environment_defaults
from ranks.run import LocalJob, Run
from ranks.sampling.checkpoint import State
from ranks.serve import start_engine
from tests.rehearsal.rank_processes import rank_config

IMAGE = Path(__file__).resolve().parents[2] / "docs" / "sample.jpg"


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that the allocator has held during a stage, in bytes."""

    allocated: int
    reserved: int


@dataclass
class PeakObserver:
    """Notes the peak of each stage of a run."""

    device: Device
    peaks: dict[Stage, Peak] = field(default_factory=dict)
    _stage: Stage = Stage.IDLE

    def enter(self, stage: Stage) -> None:
        """Note the peak of the stage that ends."""
        self.end_stage()
        self._stage = stage

    def end_stage(self) -> None:
        """Note the peak so far; begin anew."""
        runtime = runtime_of(self.device)
        self.peaks[self._stage] = Peak(
            allocated=runtime.max_memory_allocated(), reserved=runtime.max_memory_reserved()
        )
        runtime.reset_peak_memory_stats()

    def finish_step(self, num_steps: int) -> None:
        """Nothing is shown."""

    def skip_steps(self, steps: Sequence[int]) -> None:
        """Nothing is shown."""

    def finish_part(self, done: float, num_steps: int) -> None:
        """Nothing is shown."""

    def show(self, latents: Tensor) -> None:
        """Nothing is shown."""

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        """Nothing is saved."""


def runtime_of(device: Device) -> Any:
    """Return `torch.cuda` or `torch.npu`."""
    return getattr(torch, device.kind)


def open_engine(
    kind: str, rank: int, world_size: int, folder: Path, model: Path, offload: str = "none"
) -> Engine:
    """Return a loaded and warmed-up rank."""
    configure_logging(f"rank-{rank}", "text")
    set_environment_defaults(folder)
    device = open_device(kind, rank, world_size)
    config = rank_config(cast(DeviceKind, kind), world_size, folder, model)
    return start_engine(msgspec.structs.replace(config, offload=offload), rank, device)


def make_video(engine: Engine, spec: JobSpec, resume_from: Path | None = None) -> PeakObserver:
    """Run a job to its end; return what was noted.

    Raises:
        RuntimeError: If there are too few frames.
    """
    observer = PeakObserver(engine.device)
    task = LocalJob(spec=spec, image=IMAGE, resume_from=resume_from)
    num_frames = sum(frames.shape[2] for frames in Run(engine, task, observer).frames())
    observer.end_stage()
    if engine.world.rank == 0 and num_frames != spec.num_model_frames:
        raise RuntimeError(f"{num_frames} frames, expected {spec.num_model_frames}")
    return observer


def say(text: str) -> None:
    """Write a line of its own, whatever other ranks write meanwhile."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
