"""A rank without others, in this process: a loaded engine, and the jobs that run on it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from broker.wire.job import JobSpec, Stage
from broker.wire.sockets import Addresses
from ranks.config import RankConfig, VaeDtype
from ranks.control import Decision
from ranks.device import open_device
from ranks.engine import Engine
from ranks.parallel.process_group import leave
from ranks.run import LocalJob, Run
from ranks.sampling.checkpoint import State
from ranks.serve import start_engine


@contextmanager
def lone_engine(
    folder: Path,
    model: Path,
    offload: str | None = "none",
    transformers: Sequence[Path] = (),
    vae_dtype: VaeDtype | None = None,
) -> Iterator[Engine]:
    """Load a model on the CPU.

    Args:
        folder: For the rank's files.
        model: Model folder.
        offload: What is in host memory between its uses.
        transformers: Single files in place of the folder's transformers.
        vae_dtype: Of the VAE; None for float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = RankConfig(
        group="group-0",
        epoch=1,
        world_size=1,
        model_path=str(model),
        transformers=tuple(map(str, transformers)),
        vae_dtype=vae_dtype,
        device="cpu",
        addresses=Addresses.in_folder(folder),
        store=str(folder),
        rendezvous=str(folder / "rendezvous"),
        offload=offload,
        parent_pid=os.getpid(),
    )
    num_threads = torch.get_num_threads()
    try:
        with torch.inference_mode():
            yield start_engine(config, 0, open_device("cpu", 0, 1))
    finally:
        torch.set_num_threads(num_threads)
        leave()


class Watcher:
    """An observer that calls a function at each boundary, with the stage and its steps so far."""

    def __init__(self, look: Callable[[Stage, int], None] | None = None) -> None:
        self._look = look
        self._stage, self._step = Stage.IDLE, 0

    def enter(self, stage: Stage) -> None:
        """Note the stage."""
        self._stage, self._step = stage, 0

    def finish_step(self, num_steps: int) -> None:
        """Look."""
        self._step += 1
        if self._look is not None:
            self._look(self._stage, self._step)

    def finish_part(self, done: float, num_steps: int) -> None:
        """Show nothing."""

    def skip_steps(self, steps: Sequence[int]) -> None:
        """Show nothing."""

    def show(self, latents: Tensor) -> None:
        """Show nothing."""

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        """Save nothing."""


def lone_frames(
    model: Path,
    folder: Path,
    spec: JobSpec,
    image: Path,
    last_image: Path | None = None,
    transformers: Sequence[Path] = (),
) -> Tensor:
    """Return the frames `[1, 3, T, H, W]` of a job on an engine of its own."""
    with lone_engine(folder, model, transformers=transformers) as engine:
        return frames_of(engine, spec, image, last_image=last_image)


def frames_of(
    engine: Engine,
    spec: JobSpec,
    image: Path,
    *,
    look: Callable[[Stage, int], None] | None = None,
    last_image: Path | None = None,
    cancel_after: int | None = None,
) -> Tensor:
    """Run a job; return its frames `[1, 3, T, H, W]`.

    Args:
        engine: Where it runs.
        spec: The job; it may be smaller than the API allows.
        image: Its first frame.
        look: Called at each boundary.
        last_image: Its last frame.
        cancel_after: Boundary at which the job is cancelled.
    """
    num_boundaries = 0

    def decide() -> Decision:
        nonlocal num_boundaries
        num_boundaries += 1
        return Decision.CANCEL if num_boundaries == cancel_after else Decision.GO_ON

    engine.control.decide = decide
    job = LocalJob(spec=spec, image=image, last_image=last_image)
    return torch.cat(list(Run(engine, job, Watcher(look)).frames()), dim=2)
