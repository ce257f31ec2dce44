"""The memory of a group that serves a model, computed from the sizes of its parts.

Needs no torch, so that a table for other machines, or a check before a start, takes no time.
"""

import math
from typing import Any

import msgspec
from msgspec import structs

from broker.wire.job_memory import GroupMemory
from ranks.model_files.architecture import NUM_TEXT_TOKENS, shapes_of
from ranks.model_files.components import TRANSFORMERS, Component, ComponentName, ModelFiles
from ranks.model_files.quantization import work_bytes
from ranks.model_files.weight_memory import IN_FLOAT32, SCALE_BYTES
from ranks.offload import NOTHING, Offload
from ranks.parallel.layout import grid_shape

_LARGE_BYTES = 64_000_000_000
_MARGIN_BYTES = 8_000_000_000
"""What a large device leaves at least to its runtime, communicators and fragmentation. Every device
leaves a tenth."""

_CAPACITY_GRAIN = 1 << 26
"""Bytes to which capacities are rounded: the broker keeps one queue for each kind of group."""

_TOKEN_VECTORS = 15
"""Vectors of the transformer's width and dtype that are alive at once per token: what attention and
feed-forward network read, queries, keys and values, and their copies before and after the
exchange."""

_STREAM_VECTORS = 2
"""Likewise of tokens between two blocks: those of both guidance branches."""

_VAE_MAPS = 52
"""Maps of the VAE's base width that are alive at once per pixel while a chunk of four frames is
decoded: those between two convolutions, and the frames that each convolution keeps for the next
chunk. The encoder needs fewer."""

_RESIDUAL_VAE_MAPS = 100
"""Likewise of a VAE with shortcuts around its blocks, which keep the input of each."""

STREAM_ITEM_BYTES = 4

_BLOCKS_IN_TURN = 2
"""The block that runs, and the next one, which is gathered or copied meanwhile."""


class ModelSizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a model's parts, in the dtypes that it computes in."""

    num_transformers: int
    num_blocks: int
    """Of one transformer, as all that follows."""
    blocks_bytes: int
    outside_bytes: int
    work_bytes: int = 0
    """What a product of 8-bit numbers takes beside its input and output."""
    vector_bytes: int
    """One token in the dtype of the matrix products."""
    stream_bytes: int
    """One token between two blocks, in float32."""
    text_encoder_bytes: int
    image_encoder_bytes: int
    vae_bytes: int
    num_condition_tokens: int
    """Of text and images, for one guidance branch."""
    pixel_bytes: int
    """The VAE's activations for one pixel."""

    def with_vae_items(self, item_bytes: int) -> "ModelSizes":
        """Return the sizes with numbers of so many bytes in the VAE, where these have four."""
        return structs.replace(
            self,
            vae_bytes=self.vae_bytes * item_bytes // 4,
            pixel_bytes=self.pixel_bytes * item_bytes // 4,
        )


def sizes_of(files: ModelFiles, item_bytes: int = 2, vae_item_bytes: int = 4) -> ModelSizes:
    """Return the sizes of a model on disk.

    Args:
        files: The model.
        item_bytes: Of a number of the transformer and the text encoder; the defaults are those of
            accelerators.
        vae_item_bytes: Of the VAE.
    """
    configs = {name: component.config for name, component in files.components.items()}
    config, vae = configs["transformer"], configs["vae"]
    transformer = files.components["transformer"]
    in_blocks, outside = _transformer_bytes(transformer, item_bytes)
    width = config.get("num_attention_heads", 40) * config.get("attention_head_dim", 128)
    image_encoder = configs.get("image_encoder")
    # A transformer that sees two images adds a position to each of their tokens.
    num_image = config.get("pos_embed_seq_len") or num_image_tokens(image_encoder)
    return ModelSizes(
        num_transformers=sum(name in TRANSFORMERS for name in configs),
        num_blocks=config.get("num_layers", 40),
        blocks_bytes=in_blocks,
        outside_bytes=outside,
        work_bytes=work_bytes(
            max(transformer.weights[name].shape) for name in transformer.quantized
        ),
        vector_bytes=width * item_bytes,
        stream_bytes=width * STREAM_ITEM_BYTES,
        text_encoder_bytes=item_bytes * _num_weights("text_encoder", configs["text_encoder"]),
        image_encoder_bytes=0
        if image_encoder is None
        else 4 * _num_weights("image_encoder", image_encoder),
        vae_bytes=vae_item_bytes * _num_weights("vae", vae),
        num_condition_tokens=NUM_TEXT_TOKENS + num_image,
        pixel_bytes=pixel_bytes(vae, vae_item_bytes),
    )


def group_memory(
    sizes: ModelSizes,
    world_size: int,
    capacity_bytes: int,
    offload: Offload = NOTHING,
    *,
    dit_fsdp: bool = False,
    t5_fsdp: bool = False,
    vae_parallel: bool = False,
) -> GroupMemory:
    """Return the memory that the weights and the jobs take on each rank of a group.

    `capacity_bytes` is that of the smallest device.
    """
    number, blocks, t5 = sizes.num_transformers, sizes.blocks_bytes, sizes.text_encoder_bytes
    is_sharded = world_size > 1
    always = sizes.vae_bytes + number * sizes.outside_bytes + sizes.work_bytes
    always += 0 if offload.encoders else sizes.image_encoder_bytes
    shared = (0 if offload.models else number * blocks) + (0 if offload.encoders else t5)
    in_turn = blocks * min(_BLOCKS_IN_TURN, sizes.num_blocks) // max(sizes.num_blocks, 1)
    return GroupMemory(
        capacity_bytes=usable_bytes(capacity_bytes),
        weights_bytes=always + -(-shared // world_size),
        encoder_bytes=max(sizes.image_encoder_bytes, t5) if offload.encoders else 0,
        steps_bytes=blocks_on_device(sizes, offload) if offload.models else 0,
        dit_gathered_bytes=blocks if is_sharded else 0,
        dit_blocks_bytes=in_turn if is_sharded else 0,
        t5_gathered_bytes=t5 if is_sharded and not offload.encoders else 0,
        token_bytes=_TOKEN_VECTORS * sizes.vector_bytes + _STREAM_VECTORS * sizes.stream_bytes,
        cache_token_bytes=sizes.num_blocks * sizes.vector_bytes,
        # What is kept, and the tokens before the blocks.
        residual_token_bytes=2 * sizes.stream_bytes,
        condition_bytes=2 * sizes.num_blocks * sizes.num_condition_tokens * sizes.vector_bytes,
        pixel_bytes=sizes.pixel_bytes,
        vae_grid=grid_shape(world_size),
        dit_fsdp=dit_fsdp,
        t5_fsdp=t5_fsdp,
        vae_parallel=vae_parallel,
    )


def blocks_on_device(sizes: ModelSizes, offload: Offload) -> int:
    """Return the bytes of the transformers' blocks that are on the device during a step."""
    if not offload.models:
        return sizes.num_transformers * sizes.blocks_bytes
    if offload.num_resident is None:
        return sizes.blocks_bytes
    num_here = min(offload.num_resident + _BLOCKS_IN_TURN, sizes.num_blocks)
    return -(-sizes.blocks_bytes * num_here // sizes.num_blocks)


def host_bytes(sizes: ModelSizes, offload: Offload) -> int:
    """Return the bytes of the weights that each rank keeps in host memory."""
    encoders = sizes.image_encoder_bytes + sizes.text_encoder_bytes
    blocks = sizes.num_transformers * sizes.blocks_bytes
    return encoders * offload.encoders + blocks * offload.models


def pixel_bytes(config: Any, item_bytes: int) -> int:
    """Return the VAE's activations for one pixel, given its config."""
    num_maps = _RESIDUAL_VAE_MAPS if config.get("is_residual") else _VAE_MAPS
    width = config.get("decoder_base_dim") or config.get("base_dim", 96)
    # Its maps may be smaller than the frames by the side of a patch of pixels.
    return int(num_maps * width * item_bytes) // (config.get("patch_size") or 1) ** 2


def usable_bytes(capacity_bytes: int) -> int:
    margin = max(capacity_bytes // 10, _MARGIN_BYTES if capacity_bytes >= _LARGE_BYTES else 0)
    return (capacity_bytes - margin) // _CAPACITY_GRAIN * _CAPACITY_GRAIN


def num_image_tokens(config: Any | None) -> int:
    """Return the tokens of one image, given the image encoder's config; 0 without an encoder."""
    if config is None:
        return 0
    # The patches and the class token.
    side = config.get("image_size", 224) // config.get("patch_size", 32)
    return int(side) ** 2 + 1


def _transformer_bytes(component: Component, item_bytes: int) -> tuple[int, int]:
    """Return the bytes of the blocks, and of what is outside them."""
    in_blocks = outside = 0
    for name, shape in shapes_of("transformer", component.config).items():
        if name in component.quantized:
            num_bytes = math.prod(shape) + SCALE_BYTES * shape[0]
        else:
            is_wide = not IN_FLOAT32.isdisjoint(name.split("."))
            num_bytes = math.prod(shape) * (4 if is_wide else item_bytes)
        if name.startswith("blocks."):
            in_blocks += num_bytes
        else:
            outside += num_bytes
    return in_blocks, outside


def _num_weights(part: ComponentName, config: dict[str, Any]) -> int:
    return sum(math.prod(shape) for shape in shapes_of(part, config).values())
