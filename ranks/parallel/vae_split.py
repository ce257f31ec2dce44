"""Splits the VAE over height and width: every rank holds one patch of each feature map.

The result equals that of the whole VAE up to the rounding of the kernels; this is not tiling. A
convolution receives the edge lines of neighbouring patches, and the middle attention the keys and
values of all patches. Patch borders lie between cells, where a cell is a pixel of the latents. Each
stage of the VAE has a whole number of pixels per cell, so stride 2 and upsampling never straddle
two ranks.

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

from ranks.parallel.layout import grid_shape, split_evenly

Margins = tuple[int, int, int, int]
"""Lines to add at left, right, top and bottom, as `torch.nn.functional.pad` counts them."""


class VaePatch:
    """This rank's patch of one clip, and the exchange with the other ranks.

    Args:
        rank: This rank; the ranks fill the grid row by row.
        heights: Height of each row of patches, in cells.
        widths: Width of each column of patches, in cells.
        group: The ranks of the grid; None is all ranks.
        device: Device of this rank.
    """

    def __init__(
        self,
        rank: int,
        heights: Sequence[int],
        widths: Sequence[int],
        group: dist.ProcessGroup | None,
        device: torch.device,
    ) -> None:
        self._heights, self._widths, self._group = heights, widths, group
        self._device = device
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
        """Return the whole map `[..., H, W]` on every rank, given each rank's patch."""
        scale = patch.shape[-2] // self._heights[self._row]
        *outer, _, _ = patch.shape
        # Patches differ by at most one cell; padded to one size, a single collective is enough.
        num_padding_rows = self._heights[0] * scale - patch.shape[-2]
        num_padding_cols = self._widths[0] * scale - patch.shape[-1]
        patches = self._all_gather(F.pad(patch, (0, num_padding_cols, 0, num_padding_rows)))
        whole = patch.new_empty((*outer, self._tops[-1] * scale, self._lefts[-1] * scale))
        positions = product(range(len(self._heights)), range(len(self._widths)))
        for padded, (row, col) in zip(patches, positions, strict=True):
            window = self._window(whole, row, col, scale)
            window.copy_(padded[..., : window.shape[-2], : window.shape[-1]])
        return whole

    def smallest(self, number: int) -> int:
        """Return the smallest of all ranks' numbers; every rank must call it."""
        numbers = self._all_gather(torch.tensor(number, dtype=torch.int32, device=self._device))
        return int(numbers.min().item())

    def gather_tokens(self, tokens_BNC: Tensor) -> Tensor:
        """Return the tokens `[B, N, C]` of all ranks, rank by rank; attention ignores the order."""
        cells = [height * width for height, width in product(self._heights, self._widths)]
        scale = tokens_BNC.shape[1] // (self._heights[self._row] * self._widths[self._col])
        num_padding = max(cells) * scale - tokens_BNC.shape[1]
        shards = self._all_gather(F.pad(tokens_BNC, (0, 0, 0, num_padding)))
        return torch.cat(
            [shard[:, : num * scale] for shard, num in zip(shards, cells, strict=True)], dim=1
        )

    def pad(self, patch: Tensor, margins: Margins, num_frames: int = 0) -> Tensor:
        """Return the patch with its neighbours' lines around it, and zeros at the image border.

        Args:
            patch: `[..., H, W]`, or `[B, C, T, H, W]` if `num_frames` is not 0.
            margins: Lines to add, 0 or 1 on each side.
            num_frames: Frames of zeros to add before the first frame.
        """
        left, right, top, bottom = margins
        frames = (num_frames, 0) if num_frames else ()
        padded = F.pad(patch, (*margins, *frames))
        # In this order: the second exchange also carries the corners of diagonal neighbours.
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
        """Fill the margins of one dimension with the edge lines of the ranks on both sides."""
        last = padded.shape[dim] - 1
        operations, received = [], []
        for is_wanted, receiver, edge, sender, margin in (
            (before, following, last - after, previous, 0),
            (after, previous, before, following, last),
        ):
            # Every rank has the same margins: if it needs a line, so does its neighbour.
            if is_wanted and receiver is not None:
                line = padded.narrow(dim, edge, 1).contiguous()
                operations.append(dist.P2POp(dist.isend, line, receiver, self._group))
            if is_wanted and sender is not None:
                target = padded.narrow(dim, margin, 1)
                line = torch.empty_like(target, memory_format=torch.contiguous_format)
                operations.append(dist.P2POp(dist.irecv, line, sender, self._group))
                received.append((target, line))
        for work in dist.batch_isend_irecv(operations) if operations else ():
            work.wait()
        for target, line in received:
            target.copy_(line)

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
    """A loaded VAE that runs split over the ranks while `active`, and whole otherwise.

    Args:
        vae: The VAE; every rank holds all its weights.
        rank: This rank in `group`.
        world_size: Number of ranks in `group`.
        group: The ranks that share the work, in the order of their global ranks from 0; None is
            all ranks.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        rank: int,
        world_size: int,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._modules = [*vae.encoder.modules(), *vae.decoder.modules()]
        self._rank, self._group, self._device = rank, group, vae.device
        self._num_rows, self._num_cols = grid_shape(world_size)

    @contextmanager
    def active(self, height: int, width: int) -> Iterator[VaePatch | None]:
        """Make encoder and decoder work on patches while the context is open.

        Args:
            height: Height of the clip's latents.
            width: Width of the clip's latents.

        Yields:
            This rank's patch, or None if the clip has fewer latents than the grid has patches. Then
            the VAE stays whole.

        Raises:
            ValueError: If the VAE contains an unknown convolution.
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
            self._device,
        )
        replaced = [
            (module, forward)
            for module in self._modules
            if (forward := _forward_on_patch(module, patch)) is not None
        ]
        try:
            # An attribute of the instance hides the method of its class.
            for module, forward in replaced:
                module.forward = forward
            yield patch
        finally:
            for module, _ in replaced:
                del module.forward


def _forward_on_patch(module: nn.Module, patch: VaePatch) -> Callable[..., Tensor] | None:
    """Return the replacement of a module's forward pass on patches, or None if it needs none.

    Raises:
        ValueError: If the module is a convolution that is not handled here.
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
            raise ValueError(
                f"a VAE with this convolution cannot be split: {module}; leave vae_parallel off"
            )
        case _:
            return None


def _convolve_frames(
    conv: WanCausalConv3d, patch: VaePatch, x: Tensor, cache_x: Tensor | None = None
) -> Tensor:
    num_missing = conv.kernel_size[0] - 1
    if cache_x is not None:
        num_missing -= cache_x.shape[2]
        x = torch.cat([cache_x, x], dim=2)
    padded = patch.pad(x, (1, 1, 1, 1), num_missing)
    return F.conv3d(padded, conv.weight, conv.bias, conv.stride)


def _convolve(conv: nn.Conv2d, patch: VaePatch, x: Tensor) -> Tensor:
    return F.conv2d(patch.pad(x, (1, 1, 1, 1)), conv.weight, conv.bias)


def _attend(block: WanAttentionBlock, patch: VaePatch, x: Tensor) -> Tensor:
    """Attend, in each frame of `x` `[B, C, T, H, W]`, from this rank's pixels to all pixels."""
    frames = x.transpose(1, 2).flatten(0, 1)
    tokens_BNC = block.to_qkv(block.norm(frames)).flatten(2).transpose(1, 2)
    query, key_value = tokens_BNC.split([x.shape[1], 2 * x.shape[1]], dim=-1)
    key, value = patch.gather_tokens(key_value).chunk(2, dim=-1)
    # One head in its own dimension, and contiguous channels: fused kernels accept nothing else.
    query, key, value = (part.contiguous().unsqueeze(1) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1)
    output: Tensor = block.proj(mixed.transpose(1, 2).reshape(frames.shape))
    return x + output.reshape(x.transpose(1, 2).shape).transpose(1, 2)
