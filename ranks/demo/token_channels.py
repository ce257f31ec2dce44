"""What the channels of a token hold in the demo transformer, and how to read them.

Behind a layer norm a channel is read as its difference to one that is always zero, since the norm
takes the mean from all of them. Two large constants of opposite signs keep the deviation, by which
the norm divides, nearly the same for all tokens.
"""

import math
from itertools import product

from torch import nn

from ranks.demo.vae_weights import NUM_COLOURS, NUM_LATENTS, NUM_QUARTERS

Pixel = tuple[int, int, int]
"""Colour, row and column."""

SIDE = 4
PIXELS: list[Pixel] = list(product(range(NUM_COLOURS), range(SIDE), range(SIDE)))
"""Of a token, which is 2 x 2 latents, of 2 x 2 quarters each."""

LATENTS = [
    (4 * colour + 2 * (row % 2) + col % 2, row // 2, col // 2) for colour, row, col in PIXELS
] + list(product(range(NUM_QUARTERS, NUM_LATENTS), range(2), range(2)))
"""Latent channel, row and column in a token, of each pixel first and then of the others."""

# The first channel of each kind.
ERROR = 0
"""Of each entry of LATENTS, the difference to where it should be."""
CONDITION = ERROR + len(LATENTS)
"""Of each pixel, the condition; 0 but in the first frame."""
IS_FIRST = CONDITION + len(PIXELS)
"""1 in the first frame, -1 in the others, behind a layer norm."""
ZERO = IS_FIRST + 1
CONSTANTS = slice(ZERO + 1, ZERO + 3)
NUM_CHANNELS = ZERO + 3
"""Channels from here on are random."""

CONSTANT = 40.0


def deviation(num_channels: int) -> float:
    """Return what a layer norm divides a token by."""
    return CONSTANT * math.sqrt(2 / num_channels)


def read(linear: nn.Linear, row: int, channel: int, factor: float) -> None:
    """Let an output of a layer that follows a layer norm read a channel."""
    linear.weight[row, channel] += factor
    linear.weight[row, ZERO] -= factor
