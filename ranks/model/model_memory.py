"""The memory costs of a group's models, computed from the modules' shapes and dtypes.

The modules may be on any device, including meta.
"""

from collections.abc import Iterable, Sequence

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionModel, UMT5EncoderModel

from broker.wire.job_memory import GroupMemory
from ranks.model.quantized_linear import longest_sides
from ranks.model_files.architecture import NUM_TEXT_TOKENS
from ranks.model_files.memory_estimate import (
    STREAM_ITEM_BYTES,
    ModelSizes,
    group_memory,
    num_image_tokens,
    pixel_bytes,
)
from ranks.model_files.quantization import work_bytes
from ranks.offload import NOTHING, Offload


def measure(
    transformers: Sequence[WanTransformer3DModel],
    text_encoder: UMT5EncoderModel,
    image_encoder: CLIPVisionModel | None,
    vae: AutoencoderKLWan,
    *,
    num_embedded_images: int,
    world_size: int,
    capacity_bytes: int,
    offload: Offload = NOTHING,
    dit_fsdp: bool = False,
    t5_fsdp: bool = False,
    vae_parallel: bool = False,
) -> GroupMemory:
    """Return the memory that the weights and the jobs take on each rank of a group.

    The transformers and the text encoder are in their final dtypes, sharded or not; the other
    models are whole. `num_embedded_images` is the family's, `capacity_bytes` that of the smallest
    device.
    """
    transformer, *_ = transformers  # the others have the same shapes
    blocks = _num_bytes(transformer.blocks)
    image_config = None if image_encoder is None else image_encoder.config.to_dict()
    sizes = ModelSizes(
        num_transformers=len(transformers),
        num_blocks=len(transformer.blocks),
        blocks_bytes=blocks,
        outside_bytes=_num_bytes([transformer]) - blocks,
        work_bytes=work_bytes(longest_sides(transformer)),
        vector_bytes=_width(transformer) * transformer.patch_embedding.weight.dtype.itemsize,
        stream_bytes=_width(transformer) * STREAM_ITEM_BYTES,
        text_encoder_bytes=_num_bytes([text_encoder]),
        image_encoder_bytes=0 if image_encoder is None else _num_bytes([image_encoder]),
        vae_bytes=_num_bytes([vae]),
        num_condition_tokens=NUM_TEXT_TOKENS + num_embedded_images * num_image_tokens(image_config),
        pixel_bytes=pixel_bytes(vae.config, vae.dtype.itemsize),
    )
    return group_memory(
        sizes,
        world_size,
        capacity_bytes,
        offload,
        dit_fsdp=dit_fsdp,
        t5_fsdp=t5_fsdp,
        vae_parallel=vae_parallel,
    )


def _num_bytes(modules: Iterable[nn.Module]) -> int:
    return sum(
        weight.numel() * weight.dtype.itemsize
        for module in modules
        for weight in module.parameters()
    )


def _width(transformer: WanTransformer3DModel) -> int:
    config = transformer.config
    return int(config.num_attention_heads * config.attention_head_dim)
