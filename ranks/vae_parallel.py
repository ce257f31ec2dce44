"""The VAE split over height and width: every rank holds one patch of each feature map.

Exact up to the rounding of the kernels, not tiled: a convolution gets its neighbours' edge lines,
the middle attention everyone's keys and values. Patches are cut in cells, pixels of the latents;
each stage of the VAE has a whole number of its pixels per cell, so that stride 2 and the
upsampling never straddle two ranks.

Shapes: B batch, C channels, T frames, H height, W width, N tokens (H times W).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, product

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanCausalConv3d,
)
from torch import Tensor, nn

Margins = tuple[int, int, int, int]
"""Lines to add at left, right, top and bottom, as `torch.nn.functional.pad` counts them."""


def grid_shape(world_size: int) -> tuple[int, int]:
    """Return how many rows and columns of patches the ranks form: 4 x 2 on 8 ranks."""
    num_cols = 2 if world_size >= 8 and world_size % 2 == 0 else 1
    return world_size // num_cols, num_cols


def split_evenly(length: int, num_parts: int) -> list[int]:
    """Return the lengths of the parts; the first `length % num_parts` get one more."""
    share, remainder = divmod(length, num_parts)
    return [share + (part < remainder) for part in range(num_parts)]


class VaePatch:
    """This rank's patch of one clip, and the exchange with the other ranks.

    Args:
        rank: This rank; ranks lie in the grid row by row.
        heights: Cells in each row of patches.
        widths: Cells in each column of patches.
        group: The ranks of the grid; None is the world.
    """

    def __init__(
        self,
        rank: int,
        heights: Sequence[int],
        widths: Sequence[int],
        group: dist.ProcessGroup | None,
    ) -> None:
        self._heights, self._widths, self._group = heights, widths, group
        self._tops = [0, *accumulate(heights)]
        self._lefts = [0, *accumulate(widths)]
        self._row, self._col = divmod(rank, len(widths))
        num_cols, num_rows = len(widths), len(heights)
        self._above = rank - num_cols if self._row > 0 else None
        self._below = rank + num_cols if self._row < num_rows - 1 else None
        self._left = rank - 1 if self._col > 0 else None
        self._right = rank + 1 if self._col < num_cols - 1 else None

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's patch of a whole map `[..., H, W]`, in pixels or in latents."""
        return self._window(whole, self._row, self._col, whole.shape[-2] // self._tops[-1])

    def gather(self, patch: Tensor) -> Tensor:
        """Return the whole map `[..., H, W]`, on every rank, of which each holds a patch."""
        scale = patch.shape[-2] // self._heights[self._row]
        *outer, _, _ = patch.shape
        # Patches differ by a line; equal sizes let one collective carry them all.
        missing_rows = self._heights[0] * scale - patch.shape[-2]
        missing_cols = self._widths[0] * scale - patch.shape[-1]
        patches = self._all_gather(F.pad(patch, (0, missing_cols, 0, missing_rows)))
        whole = patch.new_empty((*outer, self._tops[-1] * scale, self._lefts[-1] * scale))
        positions = product(range(len(self._heights)), range(len(self._widths)))
        for padded, (row, col) in zip(patches, positions, strict=True):
            window = self._window(whole, row, col, scale)
            window.copy_(padded[..., : window.shape[-2], : window.shape[-1]])
        return whole

    def gather_tokens(self, tokens_BNC: Tensor) -> Tensor:
        """Return the tokens `[B, N, C]` of all ranks, in an order that attention ignores."""
        cells = [height * width for height, width in product(self._heights, self._widths)]
        scale = tokens_BNC.shape[1] // (self._heights[self._row] * self._widths[self._col])
        missing = max(cells) * scale - tokens_BNC.shape[1]
        shards = self._all_gather(F.pad(tokens_BNC, (0, 0, 0, missing)))
        return torch.cat(
            [shard[:, : num * scale] for shard, num in zip(shards, cells, strict=True)], dim=1
        )

    def pad(self, patch: Tensor, margins: Margins, num_frames: int = 0) -> Tensor:
        """Return the patch with the neighbours' lines around it, and zeros at the true border.

        Args:
            patch: `[..., H, W]`, or `[B, C, T, H, W]` where `num_frames` is used.
            margins: Lines to add, 0 or 1 on each side.
            num_frames: Frames of zeros to put before the first.
        """
        left, right, top, bottom = margins
        frames = (num_frames, 0) if num_frames else ()
        padded = F.pad(patch, (*margins, *frames))
        # One after the other: the second exchange carries the corners, which are a diagonal
        # neighbour's.
        self._fill(padded, -2, top, bottom, self._above, self._below)
        self._fill(padded, -1, left, right, self._left, self._right)
        return padded

    def _fill(
        self,
        padded: Tensor,
        dim: int,
        before: int,
        after: int,
        previous: int | None,
        following: int | None,
    ) -> None:
        """Fill the margins of one dimension with the edge lines of the ranks on either side."""
        last = padded.shape[dim] - 1
        operations, arrivals = [], []
        for is_wanted, receiver, edge, sender, margin in (
            (before, following, last - after, previous, 0),
            (after, previous, before, following, last),
        ):
            # Every rank wants the same margins: what it lacks tells what its neighbour lacks.
            if is_wanted and receiver is not None:
                line = padded.narrow(dim, edge, 1).contiguous()
                operations.append(dist.P2POp(dist.isend, line, receiver, self._group))
            if is_wanted and sender is not None:
                place = padded.narrow(dim, margin, 1)
                line = torch.empty_like(place, memory_format=torch.contiguous_format)
                operations.append(dist.P2POp(dist.irecv, line, sender, self._group))
                arrivals.append((place, line))
        for work in dist.batch_isend_irecv(operations) if operations else ():
            work.wait()
        for place, line in arrivals:
            place.copy_(line)

    def _window(self, whole: Tensor, row: int, col: int, scale: int) -> Tensor:
        rows = slice(self._tops[row] * scale, self._tops[row + 1] * scale)
        cols = slice(self._lefts[col] * scale, self._lefts[col + 1] * scale)
        return whole[..., rows, cols]

    def _all_gather(self, shard: Tensor) -> Tensor:
        num_ranks = len(self._heights) * len(self._widths)
        shards = shard.new_empty((num_ranks, *shard.shape))
        dist.all_gather(list(shards.unbind()), shard.contiguous(), group=self._group)
        return shards


class VaeSplit:
    """One loaded VAE that runs split over the ranks while `active`, and whole otherwise.

    Args:
        vae: On every rank, with all its weights.
        rank: This rank in `group`.
        world_size: Ranks in `group`.
        group: The ranks that share the work, in the order of their global ranks from 0; None is
            the world.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        rank: int,
        world_size: int,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._modules = [*vae.encoder.modules(), *vae.decoder.modules()]
        self._rank, self._group = rank, group
        self._num_rows, self._num_cols = grid_shape(world_size)

    @contextmanager
    def active(self, height: int, width: int) -> Iterator[VaePatch | None]:
        """Let encoder and decoder work on patches of a clip of this size.

        Args:
            height: Height of the clip's latents.
            width: Width of the clip's latents.

        Yields:
            This rank's patch, or None where the clip has too few latents for each rank to get
            one: then every rank runs the whole VAE.
        """
        if (
            self._num_rows * self._num_cols == 1
            or height < self._num_rows
            or width < self._num_cols
        ):
            yield None
            return
        patch = VaePatch(
            self._rank,
            split_evenly(height, self._num_rows),
            split_evenly(width, self._num_cols),
            self._group,
        )
        replaced = [
            (module, forward)
            for module in self._modules
            if (forward := _forward_on_patch(module, patch)) is not None
        ]
        try:
            # An instance's `forward` goes before that of its class.
            for module, forward in replaced:
                module.forward = forward
            yield patch
        finally:
            for module, _ in replaced:
                del module.forward


def _forward_on_patch(module: nn.Module, patch: VaePatch) -> Callable[..., Tensor] | None:
    """Return what the module does on a patch, None where that is what it does anyway.

    Raises:
        ValueError: If the module mixes pixels in a way that is not known here.
    """
    match module:
        case WanAttentionBlock():
            return partial(_attend, module, patch)
        case nn.ZeroPad2d():  # before the convolutions of stride 2
            return partial(patch.pad, margins=module.padding)
        case WanCausalConv3d(kernel_size=(_, 3, 3), stride=(_, 1, 1)):
            return partial(_convolve_frames, module, patch)
        case nn.Conv2d(kernel_size=(3, 3), padding=(1, 1), stride=(1, 1)):
            return partial(_convolve, module, patch)
        case nn.Conv2d(kernel_size=(3, 3), padding=(0, 0), stride=(2, 2)):
            return None
        case nn.Conv3d(kernel_size=(_, 1, 1)) | nn.Conv2d(kernel_size=(1, 1)):
            return None
        case nn.Conv2d() | nn.Conv3d():
            raise ValueError(f"a VAE with this convolution cannot be split: {module}")
        case _:
            return None


def _convolve_frames(
    conv: WanCausalConv3d, patch: VaePatch, x: Tensor, cache_x: Tensor | None = None
) -> Tensor:
    """Convolve `x`, with the frames before it from `cache_x` and zeros before those."""
    num_missing = conv.kernel_size[0] - 1
    if cache_x is not None:
        num_missing -= cache_x.shape[2]
        x = torch.cat([cache_x, x], dim=2)
    padded = patch.pad(x, (1, 1, 1, 1), num_missing)
    return F.conv3d(padded, conv.weight, conv.bias, conv.stride)


def _convolve(conv: nn.Conv2d, patch: VaePatch, x: Tensor) -> Tensor:
    return F.conv2d(patch.pad(x, (1, 1, 1, 1)), conv.weight, conv.bias)


def _attend(block: WanAttentionBlock, patch: VaePatch, x: Tensor) -> Tensor:
    """Attend from the own pixels of each frame of `x` to those of all ranks."""
    frames = x.transpose(1, 2).flatten(0, 1)
    tokens_BNC = block.to_qkv(block.norm(frames)).flatten(2).transpose(1, 2)
    query, key_value = tokens_BNC.split([x.shape[1], 2 * x.shape[1]], dim=-1)
    key, value = patch.gather_tokens(key_value).chunk(2, dim=-1)
    # One head, with a dimension of its own, and the channels of a token side by side: fused
    # kernels take nothing else.
    query, key, value = (part.contiguous().unsqueeze(1) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1)
    output: Tensor = block.proj(mixed.transpose(1, 2).reshape(frames.shape))
    return x + output.reshape(x.transpose(1, 2).shape).transpose(1, 2)
