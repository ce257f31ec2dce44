"""Spoils what one rank computes, as a bad weight or an overflow would; see `GroupTask.patch`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.distributed as dist
from diffusers.models.autoencoders.autoencoder_kl_wan import WanDecoder3d
from torch import Tensor, nn

from ranks.model.transformer import ShardTransformer

_PLACES: dict[str, tuple[type[nn.Module], int]] = {
    "denoise": (ShardTransformer, 7),
    "decode": (WanDecoder3d, 3),
}
"""Where, and from which call on."""


@contextmanager
def spoiled(place: str, rank: str, value: str) -> Iterator[None]:
    """Put `value` (nan, inf) into one number that rank `rank` computes."""
    module, first_call = _PLACES[place]
    forward = module.forward
    num_calls = 0

    def spoil(self: Any, *arguments: Any, **options: Any) -> Tensor | list[Tensor]:
        nonlocal num_calls
        num_calls += 1
        result: Tensor | list[Tensor] = forward(self, *arguments, **options)
        if dist.get_rank() == int(rank) and num_calls >= first_call:
            spoiled = result if isinstance(result, Tensor) else result[0]
            spoiled.view(-1)[0] = float(value)
        return result

    with mock.patch.object(module, "forward", spoil):
        yield
