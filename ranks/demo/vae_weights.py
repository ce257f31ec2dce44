"""The weights of the demo VAE, constructed so that it reproduces a picture, slightly blurred.

A latent is a cell of 8 x 8 pixels. Twelve of its channels hold the colours of its four quarters;
the other four are a random mix. Colours bypass every residual block, and pass every convolution
over time through its last tap, which belongs to the frame itself. All other weights are random: too
small to hide the picture, but large enough that a test notices if one is lost.

A constant channel accompanies the colours through every smoothing, so that an image border, or the
start of the clip, attenuates both alike. The final norm divides by it. The constant dominates the
norm, so the division is nearly the same everywhere.
"""

from collections.abc import Iterable
from itertools import product

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanDecoder3d,
    WanEncoder3d,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn

NUM_LATENTS = 16
NUM_COLOURS = 3
NUM_QUARTERS = 4 * NUM_COLOURS
"""Channels of a latent with a meaning; their order is colour, row, column."""

QUARTERS = list(product(range(NUM_COLOURS), range(2), range(2)))
_CONSTANT = 8.0
_RANDOM_IN_COLOURS = 0.01
_RANDOM_IN_BRANCHES = 0.015
_RANDOM_IN_ATTENTION = 0.05
_CONTRAST_OF_ATTENTION = 4.0

# Taps over height or width; a kernel is the outer product of two.
_ITSELF = torch.tensor([0.0, 1.0, 0.0])
MEAN_OF_TWO = torch.tensor([0.5, 0.5, 0.0])
SMOOTHING = torch.tensor([0.25, 0.5, 0.25])
# At first each half of a cell fills the whole cell; these move it to its position, smoothed.
TO_HALVES = torch.tensor([[0.0, 0.25, 0.25], [0.25, 0.25, 0.0]])
# How each half of a cell reads both halves of the cell and of its neighbours: -0.3, 1.6, -0.3.
SHARPENING = torch.tensor(
    [[[0.0, 1.6, 0.0], [-0.3, -0.3, 0.0]], [[0.0, -0.3, -0.3], [0.0, 1.6, 0.0]]]
)


def construct_vae(vae: AutoencoderKLWan) -> None:
    with torch.no_grad():
        _construct_encoder(vae.encoder)
        _construct_decoder(vae.decoder)
        normalise_latents(vae)


def _construct_encoder(encoder: WanEncoder3d) -> None:
    colours, quarters = NUM_COLOURS, NUM_QUARTERS
    *_, third, last = encoder.down_blocks
    scale_down_random([*encoder.down_blocks[:-2], third.resample], constant=colours)
    scale_down_random([third.time_conv, last, encoder.mid_block], constant=quarters)
    _copy(encoder.conv_in, colours)
    start_constant(encoder.conv_in, colours)
    first, second, _ = (part for part in encoder.down_blocks if isinstance(part, WanResample))
    for part in (first, second):
        _filter(part.resample[1], colours + 1, MEAN_OF_TWO)
    _copy(second.time_conv, colours + 1)
    _split_quarters(third.resample[1])
    _copy(third.time_conv, 2 * quarters + 1)
    undo_constant(encoder.norm_out, quarters)
    _read_quarters(encoder.conv_out)


def _construct_decoder(decoder: WanDecoder3d) -> None:
    colours, quarters = NUM_COLOURS, NUM_QUARTERS
    scale_down_random([decoder.mid_block, decoder.up_blocks[0]], constant=quarters)
    scale_down_random(decoder.up_blocks[1:], constant=colours)
    _copy(decoder.conv_in, quarters)
    start_constant(decoder.conv_in, quarters)
    first, second, third = (block.upsamplers[0] for block in decoder.up_blocks[:-1])
    double_frames(first.time_conv, range(quarters + 1))
    _join_quarters(first.resample[1])
    double_frames(second.time_conv, range(colours + 1))
    _filter(second.resample[1], colours + 1, SMOOTHING)
    _filter(third.resample[1], colours + 1, SMOOTHING)
    _add_negatives(third.resample[1], colours)
    undo_constant(decoder.norm_out, colours)
    _read_colours(decoder.conv_out)


def scale_down_random(parts: Iterable[nn.Module], constant: int) -> None:
    # Random weights must not read the constant, and blocks add little.
    modules = [module for part in parts for module in part.modules()]
    for conv in modules:
        if isinstance(conv, nn.Conv2d | nn.Conv3d):
            conv.weight[:, constant] = 0.0
    for block in modules:
        if isinstance(block, WanResidualBlock):
            block.conv2.weight *= _RANDOM_IN_BRANCHES
            block.conv2.bias.zero_()
            if isinstance(block.conv_shortcut, nn.Conv3d):
                _copy(block.conv_shortcut, constant + 1)
        if isinstance(block, WanAttentionBlock):
            block.to_qkv.weight *= _CONTRAST_OF_ATTENTION
            block.proj.weight *= _RANDOM_IN_ATTENTION
            block.proj.bias.zero_()


def clear(conv: nn.Conv2d | nn.Conv3d, rows: slice) -> Tensor:
    """Scale down the weights of some output channels.

    Returns:
        Their weights for the frame itself, `[out, in, height, width]`, to add to.
    """
    conv.weight[rows] *= _RANDOM_IN_COLOURS
    conv.get_parameter("bias")[rows] = 0.0
    kernels = conv.weight if conv.weight.dim() == 4 else conv.weight[:, :, -1]
    return kernels[rows]


def _copy(conv: nn.Conv3d, num_channels: int) -> None:
    kernels = clear(conv, slice(num_channels))
    middle = kernels.shape[-1] // 2
    for channel in range(num_channels):
        kernels[channel, channel, middle, middle] += 1.0


def _filter(conv: nn.Conv2d, num_channels: int, taps: Tensor) -> None:
    kernels = clear(conv, slice(num_channels))
    for channel in range(num_channels):
        kernels[channel, channel] += taps.outer(taps)


def double_frames(conv: nn.Conv3d, channels: range) -> None:
    """Insert before each frame the mean of this frame and the previous one."""
    for first, taps in ((0, (0.0, 0.5, 0.5)), (conv.in_channels, (0.0, 0.0, 1.0))):
        clear(conv, slice(first + channels.start, first + channels.stop))
        for channel in channels:
            conv.weight[first + channel, channel, :, 0, 0] += torch.tensor(taps)


def start_constant(conv: nn.Conv3d, channel: int) -> None:
    conv.weight[channel] = 0.0
    conv.get_parameter("bias")[channel] = _CONSTANT


def undo_constant(norm: WanRMS_norm, constant: int) -> None:
    norm.gamma.fill_(_CONSTANT / norm.scale)
    norm.gamma[constant] = 0.0


def _split_quarters(conv: nn.Conv2d) -> None:
    """Halve height and width, and give each of the four pixels its own channel."""
    kernels = clear(conv, slice(NUM_QUARTERS + 1))
    for channel, (colour, row, col) in enumerate(QUARTERS):
        kernels[channel, colour, row, col] += 1.0
    kernels[NUM_QUARTERS, NUM_COLOURS] += MEAN_OF_TWO.outer(MEAN_OF_TWO)
    _add_negatives(conv, NUM_QUARTERS)


def _join_quarters(conv: nn.Conv2d) -> None:
    """Put the quarters of a cell side by side; each of them fills the whole cell before."""
    kernels = clear(conv, slice(NUM_COLOURS + 1))
    for channel, (colour, row, col) in enumerate(QUARTERS):
        kernels[colour, channel] += TO_HALVES[row].outer(TO_HALVES[col])
    kernels[NUM_COLOURS, NUM_QUARTERS] += SMOOTHING.outer(SMOOTHING)


def _add_negatives(conv: nn.Conv2d, num_channels: int) -> None:
    rows = slice(num_channels + 1, 2 * num_channels + 1)
    conv.weight[rows] = -conv.weight[:num_channels]
    conv.get_parameter("bias")[rows] = 0.0


def _read_pair(kernels: Tensor, channel: int, num_channels: int, kernel: Tensor) -> None:
    # Before the activation: silu(y) - silu(-y) = y.
    kernels[channel] += kernel
    kernels[num_channels + 1 + channel] -= kernel


def _read_colours(conv: nn.Conv3d) -> None:
    kernels = clear(conv, slice(NUM_COLOURS))
    for colour in range(NUM_COLOURS):
        _read_pair(kernels[colour], colour, NUM_COLOURS, _ITSELF.outer(_ITSELF))


def _read_quarters(conv: nn.Conv3d) -> None:
    # Sharpened, to compensate for the decoder's smoothing.
    kernels = clear(conv, slice(NUM_QUARTERS))
    for latent, (colour, row, col) in enumerate(QUARTERS):
        for channel, (read_colour, read_row, read_col) in enumerate(QUARTERS):
            if read_colour == colour:
                kernel = SHARPENING[row][read_row].outer(SHARPENING[col][read_col])
                _read_pair(kernels[latent], channel, NUM_QUARTERS, kernel)


def normalise_latents(vae: AutoencoderKLWan) -> None:
    mean = torch.tensor(vae.config.latents_mean)
    std = torch.tensor(vae.config.latents_std)
    num_latents = len(mean)
    clear(vae.quant_conv, slice(num_latents))
    vae.quant_conv.weight[:num_latents, :num_latents, 0, 0, 0] = std.diag()
    vae.quant_conv.bias[:num_latents] = mean
    vae.post_quant_conv.weight[:, :, 0, 0, 0] = (1.0 / std).diag()
    vae.post_quant_conv.bias[:] = -mean / std
