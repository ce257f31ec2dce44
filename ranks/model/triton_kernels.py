"""The functions of `ranks.model.kernels` as kernels written in Triton.

A program computes one token: it reads the token once, keeps it in registers as float32, and rounds
once whatever it writes. The number of tokens and of ranks do not change the code, so a kernel is
compiled once for a model. No kernel is chosen by measuring, so every rank runs the same one.

Tokens may have different timesteps. Then shifts, scales and gates have a row for each timestep,
`[R, 1, C]`, and `rows`, `[L]`, says which one a token has.

Only importable where Triton is installed. `TRITON_INTERPRET=1` runs the kernels on the CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHANNELS_PER_WARP = 256
"""Eight for each thread: 16 bytes of bfloat16, the widest load."""
_MAX_TILE = 1024
"""Channels that a program computes at a time."""


def modulate(
    hidden_BLC: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    dtype: torch.dtype,
    rows: Tensor | None = None,
) -> Tensor:
    return _norm(hidden_BLC, None, None, scale, shift, eps, dtype, rows, is_modulated=True)[1]


def add_and_norm(
    hidden_BLC: Tensor,
    update: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return _norm(
        hidden_BLC, update, gate, weight, bias, eps, update.dtype, rows, is_modulated=False
    )


def add_and_modulate(
    hidden_BLC: Tensor,
    update: Tensor,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    # Rows of the gate, of another block, lie as far apart as those of scale and shift.
    assert gate is None or rows is None or gate.stride(0) == scale.stride(0)
    return _norm(hidden_BLC, update, gate, scale, shift, eps, update.dtype, rows, is_modulated=True)


def add(hidden_BLC: Tensor, update: Tensor, gate: Tensor, rows: Tensor | None = None) -> Tensor:
    hidden_BLC = hidden_BLC.contiguous()
    summed = hidden_BLC.new_empty(hidden_BLC.shape)
    num_tokens, channels = hidden_BLC.shape[1:]
    tile = _tile(channels)
    _add_kernel[(num_tokens,)](
        hidden_BLC,
        update.contiguous(),
        gate,
        rows,
        summed,
        CHANNELS=channels,
        ROW_STEP=gate.stride(0),
        TILE=tile,
        num_warps=_num_warps(tile),
    )
    return summed


def rotate(
    qkv: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    eps: float,
    num_heads: int,
    num_ranks: int,
) -> Tensor:
    num_tokens, channels = qkv[0].shape[1:]
    head_dim, share = channels // num_heads, num_heads // num_ranks
    rotated = qkv[0].new_empty(num_ranks, num_tokens, 3, share, head_dim)
    num_pairs = triton.next_power_of_2(head_dim // 2)
    # The largest power of two that divides the number of heads, so that no tile is cut.
    tile_heads = min(num_heads & -num_heads, max(1, _MAX_TILE // (2 * num_pairs)))
    _rotate_kernel[(num_tokens,)](
        *(part.contiguous() for part in (*qkv, *weights, *rope)),
        rotated,
        num_tokens,
        share,
        eps,
        HEADS=num_heads,
        HEAD_DIM=head_dim,
        TILE_HEADS=tile_heads,
        PAIRS=num_pairs,
        num_warps=_num_warps(tile_heads * 2 * num_pairs),
    )
    return rotated


def _norm(
    hidden_BLC: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    dtype: torch.dtype,
    rows: Tensor | None,
    *,
    is_modulated: bool,
) -> tuple[Tensor, Tensor]:
    """Return the tokens after an update, if there is one, and the same normalised, in `dtype`."""
    hidden_BLC = hidden_BLC.contiguous()
    normed = hidden_BLC.new_empty(hidden_BLC.shape, dtype=dtype)
    summed = hidden_BLC if update is None else hidden_BLC.new_empty(hidden_BLC.shape)
    modulation = scale if is_modulated else gate
    num_tokens, channels = hidden_BLC.shape[1:]
    tile = _tile(channels)
    _norm_kernel[(num_tokens,)](
        hidden_BLC,
        None if update is None else update.contiguous(),
        gate,
        scale,
        shift,
        rows,
        summed,
        normed,
        eps,
        CHANNELS=channels,
        ROW_STEP=0 if modulation is None else modulation.stride(0),
        IS_MODULATED=is_modulated,
        TILE=tile,
        num_warps=_num_warps(tile),
    )
    return summed, normed


def _tile(channels: int) -> int:
    # A power of two. Wan's widths are multiples of 512 or 1024, so that no tile is cut.
    return min(_MAX_TILE, max(_CHANNELS_PER_WARP, channels & -channels))


def _num_warps(tile: int) -> int:
    return max(1, tile // _CHANNELS_PER_WARP)


@triton.jit
def _add_kernel(
    hidden, update, gate, rows, summed,
    CHANNELS: tl.constexpr, ROW_STEP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row = 0 if rows is None else tl.load(rows + token).to(tl.int64) * ROW_STEP
    for start in tl.static_range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)
        mask = channel < CHANNELS
        here = token * CHANNELS + channel
        added = tl.load(update + here, mask).to(tl.float32)
        added *= tl.load(gate + row + channel, mask).to(tl.float32)
        total = tl.load(hidden + here, mask).to(tl.float32) + added
        tl.store(summed + here, total.to(summed.dtype.element_ty), mask)


@triton.jit
def _norm_kernel(
    hidden, update, gate, scale, shift, rows, summed, normed, eps,
    CHANNELS: tl.constexpr, ROW_STEP: tl.constexpr, IS_MODULATED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row = 0 if rows is None else tl.load(rows + token).to(tl.int64) * ROW_STEP
    lane = tl.arange(0, TILE)
    tiles = ()
    total = tl.zeros((TILE,), tl.float32)
    for start in tl.static_range(0, CHANNELS, TILE):
        channel = start + lane
        mask = channel < CHANNELS
        here = token * CHANNELS + channel
        tile = tl.load(hidden + here, mask, other=0.0).to(tl.float32)
        if update is not None:
            added = tl.load(update + here, mask, other=0.0).to(tl.float32)
            if gate is not None:
                added *= tl.load(gate + row + channel, mask, other=0.0).to(tl.float32)
            rounded = (tile + added).to(summed.dtype.element_ty)
            tl.store(summed + here, rounded, mask)
            # What is normalised is what the next operation reads, as in the plain formulas.
            tile = rounded.to(tl.float32)
        total += tile
        tiles = tiles + (tile,)  # noqa: RUF005 (Triton knows no unpacking)
    mean = tl.sum(total, 0) / CHANNELS
    squares = tl.zeros((TILE,), tl.float32)
    for index in tl.static_range(len(tiles)):
        centred = tl.where(index * TILE + lane < CHANNELS, tiles[index] - mean, 0.0)
        squares += centred * centred
    inverse = tl.rsqrt(tl.sum(squares, 0) / CHANNELS + eps)
    for index in tl.static_range(len(tiles)):
        channel = index * TILE + lane
        mask = channel < CHANNELS
        affine = row + channel if IS_MODULATED else channel
        factor = tl.load(scale + affine, mask, other=0.0).to(tl.float32)
        if IS_MODULATED:
            factor += 1
        offset = tl.load(shift + affine, mask, other=0.0).to(tl.float32)
        result = (tiles[index] - mean) * inverse * factor + offset
        tl.store(normed + token * CHANNELS + channel, result.to(normed.dtype.element_ty), mask)


# The two numbers differ between jobs: Triton must not compile anew for a multiple of 16.
@triton.jit(do_not_specialize=["num_tokens", "share"])
def _rotate_kernel(
    query, key, value, query_weight, key_weight, cos_table, sin_table, rotated,
    num_tokens, share, eps,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, TILE_HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    lane_head = tl.arange(0, TILE_HEADS)[:, None]
    lane = tl.arange(0, 2 * PAIRS)[None, :]
    pair = tl.arange(0, PAIRS)[None, :]
    mask = lane < HEAD_DIM
    angle = token * (HEAD_DIM // 2) + pair
    # Of the same shape for every head: loaded once, and kept for all of them.
    cos = tl.load(cos_table + angle, pair < HEAD_DIM // 2)
    sin = tl.load(sin_table + angle, pair < HEAD_DIM // 2)
    for kind in tl.static_range(3):
        source = query if kind == 0 else key if kind == 1 else value
        weight = query_weight if kind == 0 else key_weight
        tiles = ()
        squares = tl.zeros((TILE_HEADS, 2 * PAIRS), tl.float32)
        for start in tl.static_range(0, HEADS, TILE_HEADS):
            here = token * (HEADS * HEAD_DIM) + (start + lane_head) * HEAD_DIM + lane
            tile = tl.load(source + here, mask, other=0.0)
            if kind < 2:
                tile = tile.to(tl.float32)
                squares += tile * tile
            tiles = tiles + (tile,)  # noqa: RUF005 (Triton knows no unpacking)
        inverse = tl.rsqrt(tl.sum(tl.sum(squares, 1), 0) / (HEADS * HEAD_DIM) + eps)
        for index in tl.static_range(len(tiles)):
            head = index * TILE_HEADS + lane_head
            tile = tiles[index]
            if kind < 2:
                tile = (
                    tile * inverse * tl.load(weight + head * HEAD_DIM + lane, mask).to(tl.float32)
                )
                even, odd = tl.split(tl.reshape(tile, (TILE_HEADS, PAIRS, 2)))
                turned = tl.join(even * cos - odd * sin, even * sin + odd * cos)
                tile = tl.reshape(turned, (TILE_HEADS, 2 * PAIRS))
            row = ((head // share) * num_tokens + token) * 3 + kind
            there = (row * share + head % share) * HEAD_DIM + lane
            tl.store(rotated + there, tile.to(rotated.dtype.element_ty), mask)
