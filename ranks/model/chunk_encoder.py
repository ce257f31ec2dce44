"""The VAE's encoder chunk by chunk, without the layers whose results repeat.

All frames but those that are given are grey. A layer remembers the last frames of its input; once
its input repeats and what it remembers stays the same, bit for bit, so does its output. The first
layers, which cost most, settle first: a chunk begins at the first layer that has not settled.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanCausalConv3d,
    WanEncoder3d,
)
from torch import Tensor

Cache = list[Tensor | str | None]
"""What the layers remember; entries are replaced, never written to."""

Layer = Callable[[Tensor, Cache, list[int]], Tensor]
"""Takes its input, the cache, and a list of one number: its first entry, which it moves past its
last one."""

_NUM_REMEMBERED = 2
"""Frames that a convolution over three frames needs of the past."""


@dataclass(frozen=True)
class _StartLayer:
    """Where in the encoder a chunk begins."""

    layer: int
    entry: int
    """First cache entry of the layer."""
    x: Tensor
    """Its input."""


class ChunkEncoder:
    """Encodes one clip.

    Args:
        vae: The VAE.
        smallest: Returns the smallest of the numbers that all ranks which share the work call it
            with. They must skip the same layers, since layers exchange their edges.
    """

    def __init__(self, vae: AutoencoderKLWan, smallest: Callable[[int], int]) -> None:
        self._layers = _layers_of(vae.encoder)
        self._cache = empty_cache(vae.encoder)
        self._smallest = smallest

    def encode(self, chunk: Tensor, num_times: int) -> Iterator[Tensor]:
        """Encode a chunk `[B, C, T, H, W]` that follows itself several times.

        Yields:
            The encoder's output `[B, 2C, 1, H, W]`, as often.
        """
        start = _StartLayer(0, 0, chunk)
        for num_left in reversed(range(num_times)):
            output, starts = self._encode_from(start, is_repeated=num_left > 0)
            if num_left:
                start = starts[self._smallest(len(starts)) - 1]
            yield output

    def _encode_from(
        self, start: _StartLayer, *, is_repeated: bool
    ) -> tuple[Tensor, list[_StartLayer]]:
        """Return the output, and all layers where the same chunk can begin if it follows."""
        x, entry, starts = start.x, [start.entry], [start]
        for number, layer in enumerate(self._layers[start.layer :], start.layer):
            if not is_repeated or starts[-1].layer < number:
                x = layer(x, self._cache, entry)
                continue
            first, before = entry[0], self._cache.copy()
            x = layer(x, self._cache, entry)
            if all(_is_same(before[i], self._cache[i]) for i in range(first, entry[0])):
                starts.append(_StartLayer(number + 1, entry[0], x))
            del before  # frees memory
        return x, starts


def empty_cache(module: torch.nn.Module) -> Cache:
    return [None for part in module.modules() if isinstance(part, WanCausalConv3d)]


def _is_same(before: Tensor | str | None, after: Tensor | str | None) -> bool:
    return (
        isinstance(before, Tensor)
        and isinstance(after, Tensor)
        and before.shape == after.shape
        and torch.equal(before, after)
    )


def _layers_of(encoder: WanEncoder3d) -> list[Layer]:
    """Return the encoder's layers in the order of its forward pass."""
    middle = encoder.mid_block
    layers: list[Layer] = [partial(_convolve, encoder.conv_in), *encoder.down_blocks]
    layers.append(middle.resnets[0])
    for attention, block in zip(middle.attentions, middle.resnets[1:], strict=True):
        layers += [partial(_attend, attention), block]
    return [*layers, partial(_finish, encoder)]


def _convolve(conv: WanCausalConv3d, x: Tensor, cache: Cache, entry: list[int]) -> Tensor:
    past = cache[entry[0]]
    recent = x[:, :, -_NUM_REMEMBERED:].clone()
    if isinstance(past, Tensor) and recent.shape[2] < _NUM_REMEMBERED:
        recent = torch.cat((past[:, :, -1:], recent), dim=2)
    output: Tensor = conv(x, past)
    cache[entry[0]] = recent
    entry[0] += 1
    return output


def _attend(attention: WanAttentionBlock, x: Tensor, cache: Cache, entry: list[int]) -> Tensor:
    output: Tensor = attention(x)
    return output


def _finish(encoder: WanEncoder3d, x: Tensor, cache: Cache, entry: list[int]) -> Tensor:
    x = encoder.nonlinearity(encoder.norm_out(x))
    return _convolve(encoder.conv_out, x, cache, entry)
