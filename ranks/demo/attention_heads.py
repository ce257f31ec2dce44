"""The self-attention heads of the demo transformer, constructed to attend to chosen tokens.

Queries and keys of a head are the same for all tokens, except for RoPE and for a channel that marks
the first frame. RoPE rotates each pair of channels by an angle proportional to the token's
position. So the product of query and key is largest at one distance, which is set by the angle
between query and key before the rotation.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers.models.transformers.transformer_wan import WanAttention

from ranks.demo.token_channels import (
    CONDITION,
    ERROR,
    IS_FIRST,
    PIXELS,
    SIDE,
    Pixel,
    deviation,
    read,
)
from ranks.demo.vae_weights import NUM_COLOURS

HEAD_DIM = 18
"""Three pairs of channels each for time, height and width."""

_WEAK = 0.3
"""A score with little influence."""

_FREQUENCIES = (1.0, 10_000 ** (-1 / 3))
_FIRST_PAIR = 2
_VALUES_PER_HEAD = SIDE * SIDE
_RANDOM_IN_SCORES = 0.05
_RANDOM_IN_VALUES = 0.02
_VALUE_GAIN = 5.0
_SWAY_PIXELS = 2
_GLOW = (0.25, 0.1, -0.15)


@dataclass(frozen=True, kw_only=True)
class HeadScores:
    """The scores that a head gives to keys, before the softmax.

    Args:
        position: Scores of the fast and the slow wave over height and width. The fast wave peaks at
            the wanted position and periodically elsewhere; the slow wave rules out the other peaks.
        tokens_left: Distance of the wanted position to the left of the query's token.
        first: Score of tokens in the first frame; the others get its negative.
        rhythm: Amplitude of a score of the first frame that oscillates with the query's time.
        phase: Phase of that oscillation at the first frame, an angle.
    """

    position: tuple[float, float] = (12.0, 200.0)
    tokens_left: int = 0
    first: float = 20.0
    rhythm: float = _WEAK
    phase: float = 0.0

    def waves(self) -> list[tuple[float, float]]:
        fast, slow = self.position
        fast_angle, slow_angle = (-self.tokens_left * frequency for frequency in _FREQUENCIES)
        return [
            *((self.rhythm, self.phase), (_WEAK, 0.0), (self.first, 0.0)),
            *((fast, 0.0), (slow, 0.0), (_WEAK, 0.0)),
            *((fast, fast_angle), (slow, slow_angle), (_WEAK, 0.0)),
        ]


def subtract_condition(attn: WanAttention) -> None:
    values = _read_pixels(attn, 0, HeadScores(), PIXELS)
    for channel, pixel in enumerate(PIXELS):
        attn.to_out[0].weight[ERROR + channel, values[pixel]] -= 1.0


def add_sway(attn: WanAttention) -> None:
    """Move the picture to the right and back over time.

    In proportion to their attention to the first frame, some heads replace a pixel by the one two
    pixels to its left. If that pixel is in the token to the left, other heads read it.
    """
    scores = HeadScores(first=2.1, rhythm=3.0, phase=math.pi)
    own = _read_pixels(attn, 0, scores, PIXELS)
    right_part = [pixel for pixel in PIXELS if pixel[2] >= SIDE - _SWAY_PIXELS]
    left = _read_pixels(attn, NUM_COLOURS, replace(scores, tokens_left=1), right_part)
    for channel, pixel in enumerate(PIXELS):
        colour, row, col = pixel
        token, source = divmod(col - _SWAY_PIXELS, SIDE)
        values = own if token == 0 else left
        attn.to_out[0].weight[ERROR + channel, own[pixel]] += 1.0
        attn.to_out[0].weight[ERROR + channel, values[colour, row, source]] -= 1.0


def add_glow(attn: WanAttention, head: int) -> None:
    scores = HeadScores(position=(_WEAK, _WEAK), first=2.1, rhythm=3.0, phase=2.6)
    _set_scores(attn, head, scores)
    value = _read_channel(attn, HEAD_DIM * head, IS_FIRST, 0.5)
    attn.to_v.bias[value] = 0.5
    for channel, (colour, _, _) in enumerate(PIXELS):
        attn.to_out[0].weight[ERROR + channel, value] -= _GLOW[colour]


def attend_broadly(attn: WanAttention, heads: Iterable[int]) -> None:
    for head in heads:
        _set_scores(attn, head, HeadScores(position=(1.0, 1.0), first=_WEAK))
        attn.to_v.weight[HEAD_DIM * head : HEAD_DIM * (head + 1)] *= _VALUE_GAIN


def _read_pixels(
    attn: WanAttention, head: int, scores: HeadScores, pixels: Sequence[Pixel]
) -> dict[Pixel, int]:
    """Let `head` and the heads after it, as many as needed, read pixels.

    Returns:
        The channel of each pixel's value.
    """
    values = {}
    factor = deviation(attn.inner_dim)
    for index, pixel in enumerate(pixels):
        head_offset, channel_offset = divmod(index, _VALUES_PER_HEAD)
        if channel_offset == 0:
            _set_scores(attn, head + head_offset, scores)
        value = HEAD_DIM * (head + head_offset) + channel_offset
        values[pixel] = _read_channel(attn, value, CONDITION + PIXELS.index(pixel), factor)
    return values


def _read_channel(attn: WanAttention, value: int, channel: int, factor: float) -> int:
    attn.to_v.weight[value] *= _RANDOM_IN_VALUES
    attn.to_v.bias[value] = 0.0
    read(attn.to_v, value, channel, factor)
    return value


def _set_scores(attn: WanAttention, head: int, scores: HeadScores) -> None:
    # Before the norm weights, the mean square of queries and keys is 1.
    for pair, (score, angle) in enumerate(scores.waves()):
        channels = slice(HEAD_DIM * head + 2 * pair, HEAD_DIM * head + 2 * pair + 2)
        direction = torch.tensor([math.cos(angle), math.sin(angle)])
        attn.to_q.bias[channels] = math.sqrt(2.0) * direction
        attn.to_k.bias[channels] = math.sqrt(2.0) * torch.tensor([1.0, 0.0])
        for linear, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k)):
            norm.weight[channels] = math.sqrt(score * math.sqrt(HEAD_DIM) / 2.0)
            linear.weight[channels] *= _RANDOM_IN_SCORES / score
    first = HEAD_DIM * head + 2 * _FIRST_PAIR
    attn.to_k.bias[first] = 0.0
    read(attn.to_k, first, IS_FIRST, math.sqrt(2.0))
