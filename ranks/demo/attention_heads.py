"""The heads of the demo transformer's self-attention that know where to look.

Queries and keys of a head are the same for all tokens but for RoPE and for the mark of the first
frame. RoPE turns each pair of channels by an angle in proportion to the token's place, so the
product of query and key is largest at one distance: the angle between them before they are turned.
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
"""Three pairs of channels for each of time, height and width."""

_FAINT = 0.3
"""A score that matters little."""

_FREQUENCIES = (1.0, 10_000 ** (-1 / 3))
_FIRST_PAIR = 2
_VALUES_A_HEAD = SIDE * SIDE
_RANDOM_IN_SCORES = 0.05
_RANDOM_IN_VALUES = 0.02
_LOUDNESS = 5.0
_SWAY_PIXELS = 2
_GLOW = (0.25, 0.1, -0.15)


@dataclass(frozen=True, kw_only=True)
class Gaze:
    """Where a head looks: the scores of keys, before the softmax.

    Args:
        place: Of the fast and the slow wave over height and width. The fast one is high at the
            place, and again and again elsewhere, which the slow one rules out.
        tokens_left: How far left of a token the place is.
        first: In the first frame; elsewhere it is the negative.
        rhythm: In the first frame, up and down with the time of the query.
        phase: Of the rhythm at the first frame, an angle.
    """

    place: tuple[float, float] = (12.0, 200.0)
    tokens_left: int = 0
    first: float = 20.0
    rhythm: float = _FAINT
    phase: float = 0.0

    def waves(self) -> list[tuple[float, float]]:
        """Return score and angle of each pair of channels."""
        fast, slow = self.place
        fast_angle, slow_angle = (-self.tokens_left * frequency for frequency in _FREQUENCIES)
        return [
            *((self.rhythm, self.phase), (_FAINT, 0.0), (self.first, 0.0)),
            *((fast, 0.0), (slow, 0.0), (_FAINT, 0.0)),
            *((fast, fast_angle), (slow, slow_angle), (_FAINT, 0.0)),
        ]


def take_condition(attn: WanAttention) -> None:
    """Take the condition at the same place in the first frame from the latents."""
    values = _see_pixels(attn, 0, Gaze(), PIXELS)
    for channel, pixel in enumerate(PIXELS):
        attn.to_out[0].weight[ERROR + channel, values[pixel]] -= 1.0


def sway(attn: WanAttention) -> None:
    """Move the picture to the right and back, with the time of the frame.

    As much as some heads look to the first frame, they put the pixel two to the left for the one
    that is there; where that one is of the token to the left, other heads see it.
    """
    gaze = Gaze(first=2.1, rhythm=3.0, phase=math.pi)
    own = _see_pixels(attn, 0, gaze, PIXELS)
    right_part = [pixel for pixel in PIXELS if pixel[2] >= SIDE - _SWAY_PIXELS]
    left = _see_pixels(attn, NUM_COLOURS, replace(gaze, tokens_left=1), right_part)
    for channel, pixel in enumerate(PIXELS):
        colour, row, col = pixel
        token, source = divmod(col - _SWAY_PIXELS, SIDE)
        values = own if token == 0 else left
        attn.to_out[0].weight[ERROR + channel, own[pixel]] += 1.0
        attn.to_out[0].weight[ERROR + channel, values[colour, row, source]] -= 1.0


def glow(attn: WanAttention, head: int) -> None:
    """Add some warm light, with the time of the frame."""
    gaze = Gaze(place=(_FAINT, _FAINT), first=2.1, rhythm=3.0, phase=2.6)
    _set_gaze(attn, head, gaze)
    value = _see(attn, HEAD_DIM * head, IS_FIRST, 0.5)
    attn.to_v.bias[value] = 0.5
    for channel, (colour, _, _) in enumerate(PIXELS):
        attn.to_out[0].weight[ERROR + channel, value] -= _GLOW[colour]


def look_around(attn: WanAttention, heads: Iterable[int]) -> None:
    """Let heads look at all there is, at what is near the most."""
    for head in heads:
        _set_gaze(attn, head, Gaze(place=(1.0, 1.0), first=_FAINT))
        attn.to_v.weight[HEAD_DIM * head : HEAD_DIM * (head + 1)] *= _LOUDNESS


def _see_pixels(
    attn: WanAttention, head: int, gaze: Gaze, pixels: Sequence[Pixel]
) -> dict[Pixel, int]:
    """Let as many heads as it takes look and see pixels; return the channel of each one's value."""
    values = {}
    factor = deviation(attn.inner_dim)
    for index, pixel in enumerate(pixels):
        more, place = divmod(index, _VALUES_A_HEAD)
        if place == 0:
            _set_gaze(attn, head + more, gaze)
        value = HEAD_DIM * (head + more) + place
        values[pixel] = _see(attn, value, CONDITION + PIXELS.index(pixel), factor)
    return values


def _see(attn: WanAttention, value: int, channel: int, factor: float) -> int:
    attn.to_v.weight[value] *= _RANDOM_IN_VALUES
    attn.to_v.bias[value] = 0.0
    read(attn.to_v, value, channel, factor)
    return value


def _set_gaze(attn: WanAttention, head: int, gaze: Gaze) -> None:
    """Set queries and keys of a head; before their gains, their mean square is 1."""
    for pair, (score, angle) in enumerate(gaze.waves()):
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
