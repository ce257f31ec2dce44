"""The forward pass of a `WanTransformerBlock`, with its element-wise parts as fusible kernels.

Shapes: B batch (always 1), L tokens of this rank, C channels of the model, R timesteps.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Tensor

from ranks.model.kernels import Kernels
from ranks.parallel.ulysses import Condition, Shard

Branch = tuple[Condition, Shard]
"""What one guidance branch gets besides the tokens."""


class Stream(NamedTuple):
    """The tokens of one guidance branch between two blocks.

    A block leaves its last addition to the next one, which does it together with its first norm.
    """

    hidden_BLC: Tensor
    """Float32."""
    update_BLC: Tensor | None = None
    """What is still to be added, times `gate`."""
    gate: Tensor | None = None
    """`[R, 1, C]`."""


def install_forward(model: WanTransformer3DModel, kernels: Kernels) -> None:
    dtype = model.patch_embedding.weight.dtype
    for block in model.blocks:
        # An attribute of the instance hides the method of its class; hooks on blocks still work.
        block.forward = partial(_forward, block, kernels, dtype)


def _forward(
    block: WanTransformerBlock,
    kernels: Kernels,
    dtype: torch.dtype,
    streams: list[Stream],
    branches: Sequence[Branch],
    modulation_R6C: Tensor,
) -> list[Stream]:
    """Return the tokens of each guidance branch after a block.

    All branches in one call, so that weights that a hook fetches are fetched once. The tokens are
    replaced in the list: those of one branch are free before the next branch is computed.
    """
    modulation = (block.scale_shift_table + modulation_R6C.float()).chunk(6, dim=1)
    for branch in branches:
        # Taken out of the list: its old tokens are free as soon as there are new ones.
        stream = _forward_branch(block, kernels, dtype, streams.pop(0), branch, modulation)
        streams.append(stream)
    return streams


def _forward_branch(
    block: WanTransformerBlock,
    kernels: Kernels,
    dtype: torch.dtype,
    stream: Stream,
    branch: Branch,
    modulation: Sequence[Tensor],
) -> Stream:
    """Do the operations of the block's class, in their order, but for the last.

    Attention and feed-forward network work in `dtype`. What they add to the tokens is summed in
    float32, as in Wan2.1 `wan/modules/model.py`: in bfloat16 each of a hundred sums would round.
    """
    condition, shard = branch
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation
    rows = shard.timestep_rows
    hidden_BLC, update, last_gate = stream
    del stream
    if update is None:
        normed = kernels.modulate(hidden_BLC, shift, scale, block.norm1.eps, dtype, rows)
    else:
        hidden_BLC, normed = kernels.add_and_modulate(
            hidden_BLC, update, last_gate, shift, scale, block.norm1.eps, rows
        )
    update = block.attn1(normed, None, None, shard)
    norm = block.norm2
    hidden_BLC, normed = kernels.add_and_norm(
        hidden_BLC, update, gate, norm.weight, norm.bias, norm.eps, rows
    )
    update = block.attn2(normed, condition, None, None)
    hidden_BLC, normed = kernels.add_and_modulate(
        hidden_BLC, update, None, ffn_shift, ffn_scale, block.norm3.eps, rows
    )
    return Stream(hidden_BLC, block.ffn(normed), ffn_gate)


def finish(stream: Stream, kernels: Kernels, rows: Tensor | None) -> Tensor:
    """Return the tokens `[B, L, C]`, float32, after the last block."""
    hidden_BLC, update, gate = stream
    if update is None or gate is None:
        return hidden_BLC
    return kernels.add(hidden_BLC, update, gate, rows)
