"""Diffusers' context parallelism, on ranks without an accelerator."""

import torch
import torch.distributed as dist
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch.distributed.device_mesh import init_device_mesh


def parallelise(model: WanTransformer3DModel) -> None:
    """Split the model's sequence over all ranks, as diffusers does."""
    num_ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (1, num_ranks), mesh_dim_names=("ring", "ulysses"))
    context = ContextParallelConfig(ulysses_degree=num_ranks)
    config = ParallelConfig(context_parallel_config=context)
    # `enable_parallelism` would do this, were it not for its check for an accelerator.
    config.setup(dist.get_rank(), num_ranks, torch.device("cpu"), mesh=mesh)
    for block in model.blocks:
        block.attn1.processor._parallel_config = config
        block.attn2.processor._parallel_config = config
    apply_context_parallel(model, context, model._cp_plan)
