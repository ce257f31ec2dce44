"""The element-wise parts of a transformer block, each of which may be compiled into one kernel.

Between matrix products a block does dozens of small operations, and each reads and writes all
tokens. A compiled kernel reads them once, computes in float32 and rounds once, at the end. The
functions contain no weights, collectives or attention, so they do not interfere with FSDP, Ulysses
or the attention cache, and all blocks share the compiled code.

Tokens may have different timesteps. Then shifts, scales and gates have a row for each timestep, and
`rows`, `[L]`, says which one a token has. It is None if there is only one row.

Shapes: B batch (always 1), L tokens of this rank, H heads, D channels a head, C = H times D, R
timesteps.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class Kernels:
    """The functions of this module, compiled or plain.

    A function is compiled for the first number of tokens it sees, and at the second for any number.

    Args:
        is_fused: Whether to compile. Results then differ by the rounding of the dtype.
    """

    def __init__(self, *, is_fused: bool) -> None:
        def fuse(plain: Callable[P, R]) -> Callable[P, R]:
            if not is_fused:
                return plain
            # "fullgraph": a graph break would silently leave a part unfused. "deterministic":
            # otherwise each rank times kernels that sum in different orders, and may choose a
            # different one than another rank, or than itself before a restart.
            return torch.compile(plain, fullgraph=True, options={"deterministic": True})

        self.modulate = fuse(modulate)
        self.rotate = fuse(rotate)
        self.add_and_norm = fuse(add_and_norm)
        self.add_and_modulate = fuse(add_and_modulate)
        self.add = fuse(add)


def modulate(
    hidden_BLC: Tensor, shift: Tensor, scale: Tensor, eps: float, rows: Tensor | None = None
) -> Tensor:
    """Return the tokens normalised, scaled and shifted; `shift` and `scale` are `[R, 1, C]`."""
    normed = F.layer_norm(hidden_BLC.float(), hidden_BLC.shape[-1:], eps=eps)
    return (normed * (1 + by_token(scale, rows)) + by_token(shift, rows)).type_as(hidden_BLC)


def rotate(
    qkv: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    eps: float,
    num_heads: int,
) -> Tensor:
    """Return `[L, 3, H, D]`: queries and keys normalised and rotated, and values unchanged.

    Args:
        qkv: Projections, each `[B, L, C]`.
        weights: Weights of the query norm and the key norm, each `[C]`.
        rope: Cosines and sines of the angles, each `[L, 1, D / 2]`, float32.
        eps: Epsilon of the norms.
        num_heads: H.
    """
    channels = qkv[0].shape[-1:]
    query, key = (
        _rotate_pairs(F.rms_norm(part, channels, weight, eps).unflatten(2, (num_heads, -1)), *rope)
        for part, weight in zip(qkv[:2], weights, strict=True)
    )
    return torch.stack((query[0], key[0], qkv[2].unflatten(2, (num_heads, -1))[0]), dim=1)


def add_and_norm(
    hidden_BLC: Tensor,
    update: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the tokens after a gated update, and the same normalised, both `[B, L, C]`."""
    hidden_BLC = add(hidden_BLC, update, gate, rows)
    channels = hidden_BLC.shape[-1:]
    normed = F.layer_norm(hidden_BLC.float(), channels, weight.float(), bias.float(), eps)
    return hidden_BLC, normed.type_as(hidden_BLC)


def add_and_modulate(
    hidden_BLC: Tensor,
    update: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the tokens after an update, and the same modulated, both `[B, L, C]`."""
    hidden_BLC = hidden_BLC + update
    return hidden_BLC, modulate(hidden_BLC, shift, scale, eps, rows)


def add(hidden_BLC: Tensor, update: Tensor, gate: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the tokens plus the update times `gate`, which is `[R, 1, C]`."""
    return (hidden_BLC.float() + update.float() * by_token(gate, rows)).type_as(hidden_BLC)


def by_token(values_R1C: Tensor, rows: Tensor | None) -> Tensor:
    """Return each token's row, `[B, L, C]`, or the only one, `[B, 1, C]`, for all tokens."""
    return values_R1C if rows is None else values_R1C[rows].transpose(0, 1)


def _rotate_pairs(heads_BLHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels by the angle of the token.

    Source:
        diffusers `transformer_wan.py`, `apply_rotary_emb`.
    """
    even, odd = heads_BLHD.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).type_as(heads_BLHD)
