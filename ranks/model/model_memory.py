"""The memory costs of a group's models, computed from the modules' shapes and dtypes.

The modules may be on any device, including meta.
"""

from collections.abc import Iterable, Sequence

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionModel, UMT5EncoderModel

from broker.wire.job_memory import GroupMemory
from ranks.model.conditioning import NUM_TEXT_TOKENS
from ranks.model.quantized_linear import work_bytes
from ranks.parallel.vae_split import grid_shape

_LARGE_BYTES = 64_000_000_000
_MARGIN_BYTES = 8_000_000_000
"""What a large device leaves at least to its runtime, communicators and fragmentation. Every device
leaves a tenth."""

_CAPACITY_GRAIN = 1 << 26
"""Bytes to which capacities are rounded: the broker keeps one queue for each kind of group."""

_TOKEN_VECTORS = 18
"""Vectors of the transformer's width and dtype that are alive at once per token: hidden state, its
norm, queries, keys and values, and their copies before and after the exchange."""

_VAE_MAPS = 60
"""Maps of the VAE's base width that are alive at once per pixel while a chunk of four frames is
decoded: those between two convolutions, and the frames that each convolution keeps for the next
chunk. The encoder needs fewer."""

_RESIDUAL_VAE_MAPS = 100
"""Likewise of a VAE with shortcuts around its blocks, which keep the input of each."""

_GATHERED_BLOCKS = 2
"""The block that runs, and the next one, which is gathered meanwhile."""


def measure(
    transformers: Sequence[WanTransformer3DModel],
    text_encoder: UMT5EncoderModel,
    image_encoder: CLIPVisionModel | None,
    vae: AutoencoderKLWan,
    *,
    num_embedded_images: int,
    world_size: int,
    capacity_bytes: int,
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
    blocks = list(transformer.blocks)
    dit_blocks, t5 = _num_bytes(blocks), _num_bytes([text_encoder])
    whole = _num_bytes([vae, *([] if image_encoder is None else [image_encoder])])
    whole += len(transformers) * (_num_bytes([transformer]) - dit_blocks)
    whole += work_bytes(transformer)
    is_sharded = world_size > 1
    vector = _vector_bytes(transformer)
    num_condition_tokens = NUM_TEXT_TOKENS + num_embedded_images * num_image_tokens(image_encoder)
    return GroupMemory(
        capacity_bytes=usable_bytes(capacity_bytes),
        weights_bytes=whole + -(-(len(transformers) * dit_blocks + t5) // world_size),
        dit_gathered_bytes=dit_blocks if is_sharded else 0,
        dit_blocks_bytes=_num_bytes(blocks[:_GATHERED_BLOCKS]) if is_sharded else 0,
        t5_gathered_bytes=t5 if is_sharded else 0,
        token_bytes=_TOKEN_VECTORS * vector,
        cache_token_bytes=len(blocks) * vector,
        condition_bytes=2 * len(blocks) * num_condition_tokens * vector,
        pixel_bytes=_pixel_bytes(vae),
        vae_grid=grid_shape(world_size),
        dit_fsdp=dit_fsdp,
        t5_fsdp=t5_fsdp,
        vae_parallel=vae_parallel,
    )


def _pixel_bytes(vae: AutoencoderKLWan) -> int:
    config = vae.config
    num_maps = _RESIDUAL_VAE_MAPS if config.is_residual else _VAE_MAPS
    width = config.decoder_base_dim or config.base_dim
    # Its maps may be smaller than the frames by the side of a patch of pixels.
    return int(num_maps * width * vae.dtype.itemsize) // (config.patch_size or 1) ** 2


def usable_bytes(capacity_bytes: int) -> int:
    margin = max(capacity_bytes // 10, _MARGIN_BYTES if capacity_bytes >= _LARGE_BYTES else 0)
    return (capacity_bytes - margin) // _CAPACITY_GRAIN * _CAPACITY_GRAIN


def _num_bytes(modules: Iterable[nn.Module]) -> int:
    return sum(
        weight.numel() * weight.dtype.itemsize
        for module in modules
        for weight in module.parameters()
    )


def _vector_bytes(transformer: WanTransformer3DModel) -> int:
    config = transformer.config
    itemsize: int = transformer.patch_embedding.weight.dtype.itemsize
    return int(config.num_attention_heads * config.attention_head_dim) * itemsize


def num_image_tokens(image_encoder: CLIPVisionModel | None) -> int:
    """Return the tokens of one image; 0 without an image encoder."""
    if image_encoder is None:
        return 0
    config = image_encoder.config
    # The patches and the class token.
    return int(config.image_size // config.patch_size) ** 2 + 1
