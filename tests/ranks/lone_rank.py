"""Runs a job on a single rank in this process."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from broker.wire.job import JobSpec, Stage
from broker.wire.sockets import Addresses
from ranks.config import RankConfig
from ranks.device import open_device
from ranks.parallel.process_group import leave
from ranks.run import LocalJob, Run
from ranks.sampling.checkpoint import State
from ranks.serve import start_engine


def lone_frames(
    model: Path,
    folder: Path,
    spec: JobSpec,
    image: Path,
    last_image: Path | None = None,
    transformers: Sequence[Path] = (),
) -> Tensor:
    """Return the frames `[1, 3, T, H, W]` of a job.

    Args:
        model: Model folder.
        folder: For the rank's files; it is made.
        spec: The job, which may have fewer steps and frames than the API takes.
        image: Its image.
        last_image: The last frame, for models that take one.
        transformers: Single files in place of the folder's transformers.
    """
    folder.mkdir()
    config = RankConfig(
        group="g0",
        epoch=1,
        world_size=1,
        model_path=str(model),
        transformers=tuple(map(str, transformers)),
        device="cpu",
        addresses=Addresses.in_folder(folder),
        store=str(folder),
        rendezvous=str(folder / "rendezvous"),
        parent_pid=0,
    )
    with torch.inference_mode():
        engine = start_engine(config, 0, open_device("cpu", 0, 1))
        try:
            job = LocalJob(spec=spec, image=image, last_image=last_image)
            return torch.cat(list(Run(engine, job, _Unobserved()).frames()), dim=2)
        finally:
            leave()


class _Unobserved:
    def enter(self, stage: Stage) -> None:
        """Nothing is noted."""

    def finish_step(self, num_steps: int) -> None:
        """Nothing is noted."""

    def finish_part(self, done: float, num_steps: int) -> None:
        """Nothing is noted."""

    def show(self, latents: Tensor) -> None:
        """Nothing is shown."""

    def offer_state(self, step: int, state: Callable[[], State]) -> None:
        """Nothing is saved."""
