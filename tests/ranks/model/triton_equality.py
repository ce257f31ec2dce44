"""Compares the kernels written in Triton with the plain formulas, in Triton's interpreter.

`TRITON_INTERPRET=1 python -m tests.ranks.model.triton_equality` prints what differs. It must be a
process of its own: Triton reads the variable when it is imported.
"""

import sys
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ranks.model import kernels, triton_kernels

EPS = 1e-6
SIZES = ((1536, 12, 3), (3072, 24, 1), (5120, 40, 3), (72, 4, 5))
"""Channels, heads and tokens: of the models with 1.3, 5 and 14 billion weights, and the demo's."""
LAST_PLACE = {torch.float32: 2**-22, torch.bfloat16: 2**-7}
"""Of a number, relative to it. The interpreter cuts off what a device rounds."""
SUM_ERROR = 1e-5
"""Sums in another order, in float32, of numbers that are hardly larger than 1."""


class Draw:
    """Draws tensors that repeat from run to run."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(1)
        self._dtype = dtype

    def tokens(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._dtype)

    def floats(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)


Case = tuple[str, torch.dtype, Tensor, Tensor]
"""A name, a dtype, what a kernel made in it, and the plain formula's result in float32."""


def norms(draw: Draw, channels: int, num_tokens: int, rows: Tensor | None) -> Iterator[Case]:
    """Yield each result of the kernels with or without a norm."""
    hidden, update = draw.floats(1, num_tokens, channels), draw.tokens(1, num_tokens, channels)
    wide, dtype = hidden.dtype, update.dtype
    # As a block cuts them: rows that do not lie side by side.
    num_rows = 1 if rows is None else int(rows.max()) + 1
    shift, scale, gate, *_ = draw.floats(num_rows, 6, channels).chunk(6, dim=1)
    weight, bias = draw.floats(channels), draw.floats(channels)
    shift_L, scale_L, gate_L = (
        part if rows is None else part[rows].transpose(0, 1) for part in (shift, scale, gate)
    )

    found = triton_kernels.modulate(hidden, shift, scale, EPS, dtype, rows)
    yield "modulate", dtype, found, kernels.modulate(hidden, shift_L, scale_L, EPS, wide)

    gated = kernels.add(hidden, update, gate_L)
    yield "add", wide, triton_kernels.add(hidden, update, gate, rows), gated

    found, normed = triton_kernels.add_and_norm(hidden, update, gate, weight, bias, EPS, rows)
    yield "add_and_norm: sum", wide, found, gated
    # Of the sum as it was rounded: the next operation reads that one.
    expected = layer_norm(found, (channels,), weight, bias, EPS)
    yield "add_and_norm: norm", dtype, normed, expected

    for name, last_gate, total in (("", None, hidden + update), ("gated_", gate, gated)):
        found, normed = triton_kernels.add_and_modulate(
            hidden, update, last_gate, shift, scale, EPS, rows
        )
        yield f"{name}add_and_modulate: sum", wide, found, total
        expected = kernels.modulate(found, shift_L, scale_L, EPS, wide)
        yield f"{name}add_and_modulate: norm", dtype, normed, expected


def rotations(draw: Draw, channels: int, num_heads: int, num_tokens: int) -> Iterator[Case]:
    """Yield the rotation for one rank and for four."""
    query, key, value = (draw.tokens(1, num_tokens, channels) for _ in range(3))
    weights = (draw.tokens(channels), draw.tokens(channels))
    angles = 3 * draw.floats(num_tokens, 1, channels // num_heads // 2)
    rope = (angles.cos(), angles.sin())
    for num_ranks in (1, 4):
        found = triton_kernels.rotate((query, key, value), weights, rope, EPS, num_heads, num_ranks)
        expected = kernels.rotate(
            (query.float(), key.float(), value.float()),
            (weights[0].float(), weights[1].float()),
            rope,
            EPS,
            num_heads,
            num_ranks,
        )
        yield f"rotate, {num_ranks} ranks", query.dtype, found, expected


def differences() -> Iterator[str]:
    """Yield a line for each result that is further from the formula than one rounding."""
    for (channels, num_heads, num_tokens), dtype in product(SIZES, LAST_PLACE):
        draw = Draw(dtype)
        some = torch.arange(num_tokens) % 2
        cases = [*norms(draw, channels, num_tokens, None), *norms(draw, channels, num_tokens, some)]
        cases += rotations(draw, channels, num_heads, num_tokens)
        for name, made_in, found, expected in cases:
            assert found.dtype is made_in
            assert found.is_contiguous()
            allowed = SUM_ERROR + LAST_PLACE[made_in] * expected.abs()
            excess = ((found.float() - expected).abs() / allowed).max()
            if not excess <= 1:  # true of NaN, too
                yield f"{name}, {channels} channels, {dtype}: {excess:.1f} times what is allowed"


def main() -> int:
    found = list(differences())
    sys.stdout.writelines(f"{line}\n" for line in found)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
