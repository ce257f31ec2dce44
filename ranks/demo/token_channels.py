"""The meaning of a token's channels in the demo transformer, and how layers read them.

After a layer norm, a channel is read as its difference from a channel that is always zero, because
the norm subtracts the mean from both. Two large constants of opposite sign keep the deviation, by
which the norm divides, nearly the same for all tokens.
"""

import math
from itertools import product

from torch import nn

from ranks.demo.vae_weights import NUM_COLOURS, NUM_LATENTS, NUM_QUARTERS

Pixel = tuple[int, int, int]
"""Colour, row and column."""

SIDE = 4
PIXELS: list[Pixel] = list(product(range(NUM_COLOURS), range(SIDE), range(SIDE)))
"""Pixels of a token, which is 2 x 2 latents of 2 x 2 quarters each."""

LATENTS = [
    (4 * colour + 2 * (row % 2) + col % 2, row // 2, col // 2) for colour, row, col in PIXELS
] + list(product(range(NUM_QUARTERS, NUM_LATENTS), range(2), range(2)))
"""Latent channel, row and column in a token: first those of the pixels, then the others."""

# First channel of each kind.
ERROR = 0
"""Difference of each entry of `LATENTS` from its target."""
CONDITION = ERROR + len(LATENTS)
"""Condition of each pixel; 0 except in the first frame."""
IS_FIRST = CONDITION + len(PIXELS)
"""After a layer norm, 1 in the first frame and -1 in the others."""
ZERO = IS_FIRST + 1
CONSTANTS = slice(ZERO + 1, ZERO + 3)
NUM_CHANNELS = ZERO + 3
"""Channels from here on are random."""

CONSTANT = 40.0


def deviation(num_channels: int) -> float:
    return CONSTANT * math.sqrt(2 / num_channels)


def read(linear: nn.Linear, row: int, channel: int, factor: float) -> None:
    """Let output `row` of a layer that follows a layer norm read a channel."""
    linear.weight[row, channel] += factor
    linear.weight[row, ZERO] -= factor
