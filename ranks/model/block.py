"""The forward pass of a `WanTransformerBlock`, with its element-wise parts as fusible kernels.

Shapes: B batch (always 1), L tokens of this rank, C channels of the model, R timesteps.
"""

from collections.abc import Sequence
from functools import partial

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Tensor

from ranks.model.kernels import Kernels
from ranks.parallel.ulysses import Condition, Shard

Branch = tuple[Condition, Shard]
"""What one guidance branch gets besides the tokens."""


def install_forward(model: WanTransformer3DModel, kernels: Kernels) -> None:
    dtype = model.patch_embedding.weight.dtype
    for block in model.blocks:
        # An attribute of the instance hides the method of its class; hooks on blocks still work.
        block.forward = partial(_forward, block, kernels, dtype)


def _forward(
    block: WanTransformerBlock,
    kernels: Kernels,
    dtype: torch.dtype,
    hidden: list[Tensor],
    branches: Sequence[Branch],
    modulation_R6C: Tensor,
) -> list[Tensor]:
    """Return the tokens `[B, L, C]`, float32, of each guidance branch after a block.

    All branches in one call, so that weights that a hook fetches are fetched once. The tokens are
    replaced in the list: those of one branch are free before the next branch is computed.
    """
    modulation = (block.scale_shift_table + modulation_R6C.float()).chunk(6, dim=1)
    for index, branch in enumerate(branches):
        hidden[index] = _forward_branch(block, kernels, dtype, hidden[index], branch, modulation)
    return hidden


def _forward_branch(
    block: WanTransformerBlock,
    kernels: Kernels,
    dtype: torch.dtype,
    hidden_BLC: Tensor,
    branch: Branch,
    modulation: Sequence[Tensor],
) -> Tensor:
    """Do the operations of the block's class, in their order.

    Attention and feed-forward network work in `dtype`. What they add to the tokens is summed in
    float32, as in Wan2.1 `wan/modules/model.py`: in bfloat16 each of a hundred sums would round.
    """
    condition, shard = branch
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation
    rows = shard.timestep_rows
    normed = kernels.modulate(hidden_BLC, shift, scale, block.norm1.eps, dtype, rows)
    update = block.attn1(normed, None, None, shard)
    norm = block.norm2
    hidden_BLC, normed = kernels.add_and_norm(
        hidden_BLC, update, gate, norm.weight, norm.bias, norm.eps, rows
    )
    update = block.attn2(normed, condition, None, None)
    hidden_BLC, normed = kernels.add_and_modulate(
        hidden_BLC, update, ffn_shift, ffn_scale, block.norm3.eps, rows
    )
    return kernels.add(hidden_BLC, block.ffn(normed), ffn_gate, rows)
