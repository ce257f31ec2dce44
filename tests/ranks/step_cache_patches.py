"""Changes what the decisions of step caches depend on; see `GroupTask.patch`."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from ranks.model.transformer import ShardTransformer
from ranks.sampling.step_cache import StepCache


@contextmanager
def opposed(rank: str) -> Iterator[None]:
    """Make one rank want the opposite of what its step cache says."""
    wants_to_skip = StepCache.wants_to_skip

    def oppose(self: StepCache, step: int, latents: Tensor) -> bool:
        return wants_to_skip(self, step, latents) != (dist.get_rank() == int(rank))

    with mock.patch.object(StepCache, "wants_to_skip", oppose):
        yield


@contextmanager
def calm() -> Iterator[None]:
    """Make the modulation change as little from step to step as that of a trained model."""

    def modulation(self: ShardTransformer, timestep: Tensor) -> Tensor:
        return 1 + 1e-4 * timestep.float().reshape(1, 1)

    with mock.patch.object(ShardTransformer, "modulation", modulation):
        yield
