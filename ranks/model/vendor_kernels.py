"""The functions of `ranks.model.kernels` with operators that a vendor's package adds to torch.

Without a compiler, each operator reads and writes all tokens. So the fewest are taken: norms that
scale and shift, sums with a product inside, and torch_npu's norm and rotation. Results are rounded
where the plain form rounds them, and the angles of the rotation as well.

Shapes are those of `ranks.model.kernels`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ranks.model.token_rows import by_token

OPERATORS = ("npu_rms_norm", "npu_rotary_mul")
"""What torch_npu must have."""


def modulate(
    hidden_BLC: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    dtype: torch.dtype,
    rows: Tensor | None = None,
) -> Tensor:
    channels = hidden_BLC.shape[-1:]
    if rows is None:
        normed = F.layer_norm(hidden_BLC, channels, (1 + scale)[0, 0], shift[0, 0], eps)
        return normed.to(dtype)
    normed = F.layer_norm(hidden_BLC, channels, eps=eps)
    return torch.addcmul(by_token(shift, rows), normed, by_token(1 + scale, rows)).to(dtype)


def rotate(
    qkv: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    eps: float,
    num_heads: int,
    num_ranks: int,
) -> Tensor:
    num_tokens, channels = qkv[0].shape[1:]
    shape = (num_ranks, num_tokens, 3, num_heads // num_ranks, channels // num_heads)
    rotated = qkv[0].new_empty(shape)
    by_token_L3RhD = rotated.permute(1, 2, 0, 3, 4)
    # The operator wants an angle for each channel, in the dtype of the tokens. To round the angles
    # costs nothing measurable; to turn the tokens in float32 would move a fifth more bytes.
    cos, sin = (
        torch.stack((table, table), dim=-1).flatten(-2).unsqueeze(0).to(qkv[0].dtype)
        for table in rope
    )
    for index, (part, weight) in enumerate(zip(qkv[:2], weights, strict=True)):
        heads = rms_norm(part, weight, eps).unflatten(2, (num_heads, -1))
        turned = torch.ops.npu.npu_rotary_mul(heads, cos, sin, "interleave")
        by_token_L3RhD[:, index].copy_(turned[0].unflatten(1, (num_ranks, -1)))
    by_token_L3RhD[:, 2].copy_(qkv[2][0].unflatten(1, (num_ranks, shape[3], shape[4])))
    return rotated


def rms_norm(tokens_BLC: Tensor, weight: Tensor, eps: float) -> Tensor:
    normed, _ = torch.ops.npu.npu_rms_norm(tokens_BLC, weight, eps)
    result: Tensor = normed
    return result


def add_and_norm(
    hidden_BLC: Tensor,
    update: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    hidden_BLC = add(hidden_BLC, update, gate, rows)
    channels = hidden_BLC.shape[-1:]
    normed = F.layer_norm(hidden_BLC, channels, weight.float(), bias.float(), eps)
    return hidden_BLC, normed.to(update.dtype)


def add_and_modulate(
    hidden_BLC: Tensor,
    update: Tensor,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    hidden_BLC = hidden_BLC + update if gate is None else add(hidden_BLC, update, gate, rows)
    return hidden_BLC, modulate(hidden_BLC, shift, scale, eps, update.dtype, rows)


def add(hidden_BLC: Tensor, update: Tensor, gate: Tensor, rows: Tensor | None = None) -> Tensor:
    return torch.addcmul(hidden_BLC, update, by_token(gate, rows))
