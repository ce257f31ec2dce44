"""The demo VAE of Wan2.2 TI2V-5B: in patches of pixels, with 48 channels of latents.

As in `vae_weights`, twelve channels of a latent hold the colours of the quarters of its cell, here
of 16 x 16 pixels, and a constant channel accompanies them. The shortcuts of this VAE average, or
repeat, channels at fixed places. On the way down they carry the colours. On the way up they are in
the way, so each block moves the colours to channels that no shortcut fills.
"""

import math

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanDecoder3d,
    WanEncoder3d,
)
from torch import Tensor, nn

from ranks.demo.vae_weights import (
    MEAN_OF_TWO,
    NUM_COLOURS,
    NUM_QUARTERS,
    QUARTERS,
    SHARPENING,
    SMOOTHING,
    TO_HALVES,
    clear,
    double_frames,
    normalise_latents,
    scale_down_random,
    start_constant,
    undo_constant,
)
from ranks.model_files.original_vae import LATENTS_22

NUM_PATCH_LATENTS = 48
_PATCH_PIXELS = 4
_GROUP = NUM_COLOURS + 1
"""Channels of the colours and their constant."""

_DOWN = range(1, 2 * _GROUP, 2)
"""Colours and constant after the shortcut of the second block: the odd channels are of the later of
two frames."""
_SPLIT = range(16, 16 + 2 * NUM_QUARTERS + 1)
"""Quarters, their constant and their negatives at the encoder's end."""
_JOINED = range(16, 16 + _GROUP)
_DOUBLED = range(20, 20 + _GROUP)
_WHOLE = range(24, 24 + _GROUP)
"""Colours and constant after the decoder's first, second and third block."""
_QUIET = slice(48, 64)
"""What the shortcut of the third block adds to `_WHOLE`."""


def make_patch_vae() -> AutoencoderKLWan:
    """Return the VAE with random weights."""
    vae: AutoencoderKLWan = AutoencoderKLWan(
        base_dim=16,
        decoder_base_dim=16,
        z_dim=NUM_PATCH_LATENTS,
        num_res_blocks=1,
        **LATENTS_22,  # which no original file states
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    return vae


def construct_patch_vae(vae: AutoencoderKLWan) -> None:
    with torch.no_grad():
        _construct_encoder(vae.encoder)
        _construct_decoder(vae.decoder)
        normalise_latents(vae)


def _construct_encoder(encoder: WanEncoder3d) -> None:
    first, second, third, last = encoder.down_blocks
    scale_down_random([first, second], constant=NUM_COLOURS)
    scale_down_random([third], constant=_DOWN[-1])
    scale_down_random([last, encoder.mid_block], constant=_SPLIT[NUM_QUARTERS])
    colours = clear(encoder.conv_in, slice(11))
    for colour in range(NUM_COLOURS):
        colours[colour, _PATCH_PIXELS * colour : _PATCH_PIXELS * (colour + 1), 1, 1] += 0.25
    start_constant(encoder.conv_in, NUM_COLOURS)
    # The shortcuts carry the colours, and nothing to where the quarters will be.
    clear(first.downsampler.resample[1], slice(11))
    for conv in (second.downsampler.resample[1], second.downsampler.time_conv):
        clear(conv, slice(21))
    _split_quarters(third.downsampler.resample[1])
    kept = clear(third.downsampler.time_conv, slice(_SPLIT.start, _SPLIT.stop))
    for row, channel in enumerate(_SPLIT):
        kept[row, channel] += 1.0
    undo_constant(encoder.norm_out, _SPLIT[NUM_QUARTERS])
    encoder.norm_out.gamma *= math.sqrt(2.0)  # a shortcut has copied the constant
    _read_quarters(clear(encoder.conv_out, slice(NUM_QUARTERS)))


def _split_quarters(conv: nn.Conv2d) -> None:
    """Halve height and width, and give each of the four pixels its own channel."""
    kernels = clear(conv, slice(_SPLIT.start, _SPLIT.stop))
    for channel, (colour, row, col) in enumerate(QUARTERS):
        kernels[channel, _DOWN[colour], row, col] += 1.0
    kernels[NUM_QUARTERS, _DOWN[-1]] += MEAN_OF_TWO.outer(MEAN_OF_TWO)
    kernels[NUM_QUARTERS + 1 :] = -kernels[:NUM_QUARTERS]


def _read_quarters(kernels: Tensor) -> None:
    for latent, (colour, row, col) in enumerate(QUARTERS):
        for channel, (read_colour, read_row, read_col) in enumerate(QUARTERS):
            if read_colour == colour:
                kernel = SHARPENING[row][read_row].outer(SHARPENING[col][read_col])
                kernels[latent, _SPLIT[channel]] += kernel
                kernels[latent, _SPLIT[NUM_QUARTERS + 1 + channel]] -= kernel


def _construct_decoder(decoder: WanDecoder3d) -> None:
    first, second, third, last = decoder.up_blocks
    scale_down_random([decoder.mid_block, first], constant=NUM_QUARTERS)
    scale_down_random([second], constant=_JOINED[-1])
    scale_down_random([third], constant=_DOUBLED[-1])
    scale_down_random([last], constant=NUM_COLOURS)
    quarters = clear(decoder.conv_in, slice(_WHOLE.start))
    for channel in range(NUM_QUARTERS):
        quarters[channel, channel, 1, 1] += 1.0
    start_constant(decoder.conv_in, NUM_QUARTERS)
    for conv in (decoder.conv_in, first.upsampler.resample[1], second.upsampler.resample[1]):
        clear(conv, _QUIET)
    double_frames(first.upsampler.time_conv, range(NUM_QUARTERS + 1))
    _join_quarters(first.upsampler.resample[1])
    double_frames(second.upsampler.time_conv, _JOINED)
    _smooth(second.upsampler.resample[1], _JOINED, _DOUBLED)
    _smooth(third.upsampler.resample[1], _DOUBLED, _WHOLE)
    _add_negatives(last.resnets[0].conv_shortcut)
    undo_constant(decoder.norm_out, NUM_COLOURS)
    colours = clear(decoder.conv_out, slice(_PATCH_PIXELS * NUM_COLOURS))
    for row in range(_PATCH_PIXELS * NUM_COLOURS):
        colour = row // _PATCH_PIXELS
        colours[row, colour, 1, 1] += 1.0
        colours[row, _GROUP + colour, 1, 1] -= 1.0


def _join_quarters(conv: nn.Conv2d) -> None:
    """Put the quarters of a cell side by side; each of them fills the whole cell before."""
    kernels = clear(conv, slice(_JOINED.start, _DOUBLED.stop))
    for channel, (colour, row, col) in enumerate(QUARTERS):
        kernels[colour, channel] += TO_HALVES[row].outer(TO_HALVES[col])
    kernels[NUM_COLOURS, NUM_QUARTERS] += SMOOTHING.outer(SMOOTHING)


def _smooth(conv: nn.Conv2d, source: range, target: range) -> None:
    kernels = clear(conv, slice(target.start, target.stop))
    for row, channel in enumerate(source):
        kernels[row, channel] += SMOOTHING.outer(SMOOTHING)


def _add_negatives(shortcut: nn.Conv3d) -> None:
    """Bring colours and constant to the first channels, and the colours' negatives behind them."""
    shortcut.weight[:, : _WHOLE.stop] = 0.0
    kernels = clear(shortcut, slice(2 * _GROUP - 1))
    for row, channel in enumerate(_WHOLE):
        kernels[row, channel] += 1.0
    kernels[_GROUP:] -= kernels[:NUM_COLOURS]
