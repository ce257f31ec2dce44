"""Makes one rank want the opposite of what its step cache says; see `GroupTask.patch`."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from ranks.sampling.step_cache import StepCache


@contextmanager
def opposed(rank: str) -> Iterator[None]:
    wants_to_skip = StepCache.wants_to_skip

    def oppose(self: StepCache, step: int, latents: Tensor) -> bool:
        return wants_to_skip(self, step, latents) != (dist.get_rank() == int(rank))

    with mock.patch.object(StepCache, "wants_to_skip", oppose):
        yield
