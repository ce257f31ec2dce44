"""The element-wise parts of a transformer block, each of which may be fused into one kernel.

Between matrix products a block does dozens of small operations, and each reads and writes all
tokens. A fused kernel reads them once, computes in float32 and rounds once, at the end. Tokens
between blocks are in float32, what matrix products read or write in the model's dtype. The
functions contain no weights, collectives or attention, so they do not interfere with FSDP, Ulysses
or the attention cache, and all blocks share the compiled code.

Tokens may have different timesteps. Then shifts, scales and gates have a row for each timestep, and
`rows`, `[L]`, says which one a token has. It is None if there is only one row.

Shapes: B batch (always 1), L tokens of this rank, H heads, D channels a head, C = H times D, R
timesteps.
"""

from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ranks.model.token_rows import by_token

P = ParamSpec("P")
R = TypeVar("R")

KernelForm = Literal["plain", "compiled", "triton", "vendor"]
"""Operation by operation; compiled by torch; written in Triton (`triton_kernels.py`); or with
operators that the device's vendor adds to torch (`vendor_kernels.py`).

The results differ by the rounding of the dtype.
"""

FORM_NAMES: dict[KernelForm, str] = {
    "plain": "plain",
    "compiled": "inductor",
    "triton": "triton",
    "vendor": "torch_npu's",
}
"""As people call them."""

_LEAST_SCALE = 1e-30
"""Of a row of zeros, which must not be divided by zero."""


class Kernels:
    """The functions of this module in one form."""

    def __init__(self, form: KernelForm) -> None:
        self.modulate = modulate
        self.rotate = rotate
        self.rms_norm = rms_norm
        self.add_and_norm = add_and_norm
        self.add_and_modulate = add_and_modulate
        self.add = add
        has_compiler = form in ("compiled", "triton")
        self.quantize_rows = _compiled(quantize_rows) if has_compiler else quantize_rows
        if form == "compiled":
            self._compile()
        elif form == "triton":
            self._use_triton()
        elif form == "vendor":
            self._use_vendors()

    def _compile(self) -> None:
        """Compile for the first number of tokens, and at the second for any number."""
        self.modulate = _compiled(modulate)
        self.rotate = RotationByFlip(_compiled(stack_rotated_by_flip))
        self.add_and_norm = _compiled(add_and_norm)
        self.add_and_modulate = _compiled(add_and_modulate)
        self.add = _compiled(add)

    def _use_triton(self) -> None:
        # Triton is only installed beside a build of torch for GPUs.
        from ranks.model import triton_kernels

        self.modulate = triton_kernels.modulate
        self.rotate = triton_kernels.rotate
        self.add_and_norm = triton_kernels.add_and_norm
        self.add_and_modulate = triton_kernels.add_and_modulate
        self.add = triton_kernels.add

    def _use_vendors(self) -> None:
        from ranks.model import vendor_kernels

        self.modulate = vendor_kernels.modulate
        self.rotate = vendor_kernels.rotate
        self.rms_norm = vendor_kernels.rms_norm
        self.add_and_norm = vendor_kernels.add_and_norm
        self.add_and_modulate = vendor_kernels.add_and_modulate
        self.add = vendor_kernels.add


def _compiled(plain: Callable[P, R]) -> Callable[P, R]:
    # "fullgraph": a graph break would silently leave a part unfused. "deterministic": otherwise
    # each rank times kernels that sum in different orders, and may choose a different one than
    # another rank, or than itself before a restart.
    return torch.compile(plain, fullgraph=True, options={"deterministic": True})


def modulate(
    hidden_BLC: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    dtype: torch.dtype,
    rows: Tensor | None = None,
) -> Tensor:
    """Return the tokens normalised, scaled and shifted, in `dtype`.

    `shift` and `scale` are `[R, 1, C]`.
    """
    normed = F.layer_norm(hidden_BLC.float(), hidden_BLC.shape[-1:], eps=eps)
    return (normed * (1 + by_token(scale, rows)) + by_token(shift, rows)).to(dtype)


def rotate(
    qkv: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    eps: float,
    num_heads: int,
    num_ranks: int,
) -> Tensor:
    """Return queries and keys normalised and rotated, and values unchanged.

    Args:
        qkv: Projections, each `[B, L, C]`.
        weights: Weights of the query norm and the key norm, each `[C]`.
        rope: Cosines and sines of the angles, each `[L, 1, D / 2]`, float32.
        eps: Epsilon of the norms.
        num_heads: H.
        num_ranks: Ranks that share the heads.

    Returns:
        `[ranks, L, 3, heads of a rank, D]`, the order in which ranks exchange them; it may be a
        view that is not contiguous.
    """
    stacked = _stack_rotated(qkv, weights, rope, eps, num_heads, _rotate_pairs)
    return _by_rank(stacked, num_ranks)


def rms_norm(tokens_BLC: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return the tokens divided by their root mean square, times `weight`, `[C]`."""
    return F.rms_norm(tokens_BLC, tokens_BLC.shape[-1:], weight, eps)


class RotationByFlip:
    """`rotate` for the compiler: the same numbers, in half the instructions.

    The compiler writes what it makes of neighbouring channels to memory in float32. What it makes
    of whole heads and of their channels in another order, it writes once, where it belongs.

    Args:
        stack: `stack_rotated_by_flip`, compiled. What depends on the number of ranks is left out,
            since another number would compile it again.
    """

    def __init__(self, stack: Callable[..., Tensor]) -> None:
        self._stack = stack

    def __call__(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        weights: tuple[Tensor, Tensor],
        rope: tuple[Tensor, Tensor],
        eps: float,
        num_heads: int,
        num_ranks: int,
    ) -> Tensor:
        # Each angle twice, once for each channel of a pair.
        cos, sin = rope[0].repeat_interleave(2, dim=-1), _alternate(-rope[1], rope[1])
        return _by_rank(self._stack(qkv, weights, (cos, sin), eps, num_heads), num_ranks)


def stack_rotated_by_flip(
    qkv: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    tables: tuple[Tensor, Tensor],
    eps: float,
    num_heads: int,
) -> Tensor:
    """Return `[L, 3, H, D]`; `tables` are `[L, 1, D]`, with sines negative for even channels."""
    return _stack_rotated(qkv, weights, tables, eps, num_heads, _rotate_by_flip)


def add_and_norm(
    hidden_BLC: Tensor,
    update: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the tokens after a gated update, and the same normalised, both `[B, L, C]`.

    The normalised ones have the dtype of the update.
    """
    hidden_BLC = add(hidden_BLC, update, gate, rows)
    channels = hidden_BLC.shape[-1:]
    normed = F.layer_norm(hidden_BLC.float(), channels, weight.float(), bias.float(), eps)
    return hidden_BLC, normed.type_as(update)


def add_and_modulate(
    hidden_BLC: Tensor,
    update: Tensor,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the tokens after an update, and the same modulated, both `[B, L, C]`.

    Without a gate, the update is added as it is. The modulated tokens have its dtype.
    """
    hidden_BLC = hidden_BLC + update if gate is None else add(hidden_BLC, update, gate, rows)
    return hidden_BLC, modulate(hidden_BLC, shift, scale, eps, update.dtype, rows)


def add(hidden_BLC: Tensor, update: Tensor, gate: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the tokens plus the update times `gate`, which is `[R, 1, C]`."""
    return (hidden_BLC.float() + update.float() * by_token(gate, rows)).type_as(hidden_BLC)


def quantize_rows(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows `[N, C]` as 8-bit numbers of a dtype, and the factor of each, `[N, 1]`, float32.

    The largest number of a row becomes the largest of the dtype. So NaN and infinity make the
    factor, and with it all products of the row, NaN or infinite.
    """
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    scale = (rows.abs().amax(dim=1, keepdim=True).float() / largest).clamp_min(_LEAST_SCALE)
    scaled = rows.float() / scale
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scale


def _stack_rotated(
    qkv: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    tables: tuple[Tensor, Tensor],
    eps: float,
    num_heads: int,
    turn: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Return `[L, 3, H, D]`: queries and keys normalised and turned, and values."""
    channels = qkv[0].shape[-1:]
    query, key = (
        turn(F.rms_norm(part, channels, weight, eps).unflatten(2, (num_heads, -1)), *tables)
        for part, weight in zip(qkv[:2], weights, strict=True)
    )
    return torch.stack((query[0], key[0], qkv[2].unflatten(2, (num_heads, -1))[0]), dim=1)


def _by_rank(qkv_L3HD: Tensor, num_ranks: int) -> Tensor:
    by_rank: Tensor = qkv_L3HD.unflatten(2, (num_ranks, -1))
    return by_rank.permute(2, 0, 1, 3, 4)


def _rotate_pairs(heads_BLHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels by the angle of the token.

    Source:
        diffusers `transformer_wan.py`, `apply_rotary_emb`.
    """
    even, odd = heads_BLHD.unflatten(-1, (-1, 2)).unbind(-1)
    return _alternate(even * cos - odd * sin, even * sin + odd * cos).type_as(heads_BLHD)


def _rotate_by_flip(heads_BLHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Do what `_rotate_pairs` does, with a cosine and a signed sine for each channel."""
    swapped: Tensor = heads_BLHD.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (heads_BLHD * cos + swapped * sin).type_as(heads_BLHD)


def _alternate(even: Tensor, odd: Tensor) -> Tensor:
    pairs = torch.stack((even, odd), dim=-1)
    return pairs.flatten(-2)
