"""The weights that each config describes: names and shapes, as in diffusers and transformers.

So a start can tell that weights do not fit without importing those libraries, which takes seconds.
A test compares them with the models themselves.
"""

import math
from typing import Any

import msgspec

from ranks.model_files.components import ComponentName
from ranks.model_files.vae_architecture import vae_shapes

NUM_TEXT_TOKENS = 512
"""Tokens of every prompt, padding included."""

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


class Names(msgspec.Struct, frozen=True):
    """How the files of a component name its weights."""

    prefix: str = ""
    """Stands before each name in some files, and not in others."""
    unused: tuple[str, ...] = ()
    """How the names begin of what a file of the whole model holds besides the component."""

    def is_unused(self, name: str) -> bool:
        return name.startswith(self.unused) or name.endswith(".position_ids")


ONLY_OWN = Names()
TEXT_ENCODER_NAMES = Names(unused=("decoder.", "lm_head."))
IMAGE_ENCODER_NAMES = Names(
    prefix="vision_model.",
    unused=("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
)


def shapes_of(component: ComponentName, config: Config) -> Shapes:
    """Return the shape of each weight by its name in the model.

    Raises:
        Exception: Of any arithmetic kind, if the config describes no model.
    """
    match component:
        case "transformer" | "transformer_2":
            return transformer_shapes(config)
        case "text_encoder":
            return text_encoder_shapes(config)
        case "image_encoder":
            return image_encoder_shapes(config)
        case "vae":
            return vae_shapes(config)


def transformer_shapes(config: Config) -> Shapes:
    dim = config.get("num_attention_heads", 40) * config.get("attention_head_dim", 128)
    patch = config.get("patch_size", (1, 2, 2))
    text_dim, image_dim = config.get("text_dim", 4096), config.get("image_dim")
    out_channels = config.get("out_channels", 16)
    shapes: Shapes = {"patch_embedding.weight": (dim, config.get("in_channels", 16), *patch)}
    shapes |= {"patch_embedding.bias": (dim,), "scale_shift_table": (1, 2, dim)}
    shapes |= _linear("proj_out", out_channels * math.prod(patch), dim)
    embedder = "condition_embedder"
    shapes |= _linear(f"{embedder}.time_embedder.linear_1", dim, config.get("freq_dim", 256))
    shapes |= _linear(f"{embedder}.time_embedder.linear_2", dim, dim)
    shapes |= _linear(f"{embedder}.time_proj", 6 * dim, dim)
    shapes |= _linear(f"{embedder}.text_embedder.linear_1", dim, text_dim)
    shapes |= _linear(f"{embedder}.text_embedder.linear_2", dim, dim)
    if image_dim is not None:
        image = f"{embedder}.image_embedder"
        shapes |= _norm(f"{image}.norm1", image_dim) | _norm(f"{image}.norm2", dim)
        shapes |= _linear(f"{image}.ff.net.0.proj", image_dim, image_dim)
        shapes |= _linear(f"{image}.ff.net.2", dim, image_dim)
        if (length := config.get("pos_embed_seq_len")) is not None:
            shapes[f"{image}.pos_embed"] = (1, length, image_dim)
    block = _block_shapes(config, dim)
    for number in range(config.get("num_layers", 40)):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return shapes


def _block_shapes(config: Config, dim: int) -> Shapes:
    ffn_dim, added_dim = config.get("ffn_dim", 13824), config.get("added_kv_proj_dim")
    shapes: Shapes = {"scale_shift_table": (1, 6, dim)}
    for attention in ("attn1", "attn2"):
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= _linear(f"{attention}.{name}", dim, dim)
        shapes |= {f"{attention}.norm_{name}.weight": (dim,) for name in "qk"}
    if added_dim is not None:
        shapes |= _linear("attn2.add_k_proj", dim, added_dim)
        shapes |= _linear("attn2.add_v_proj", dim, added_dim)
        shapes["attn2.norm_added_k.weight"] = (dim,)
    shapes |= _linear("ffn.net.0.proj", ffn_dim, dim) | _linear("ffn.net.2", dim, ffn_dim)
    return shapes | (_norm("norm2", dim) if config.get("cross_attn_norm", True) else {})


def text_encoder_shapes(config: Config) -> Shapes:
    width, heads = config.get("d_model", 512), config.get("num_heads", 6)
    inner, hidden = heads * config.get("d_kv", 64), config.get("d_ff", 1024)
    shapes: Shapes = {
        "shared.weight": (config.get("vocab_size", 250112), width),
        "encoder.final_layer_norm.weight": (width,),
    }
    is_gated = str(config.get("feed_forward_proj", "gated-gelu")).startswith("gated")
    for number in range(config.get("num_layers", 8)):
        layer = f"encoder.block.{number}.layer"
        attention, dense = f"{layer}.0.SelfAttention", f"{layer}.1.DenseReluDense"
        shapes |= {f"{attention}.{name}.weight": (inner, width) for name in "qkv"}
        shapes |= {
            f"{attention}.o.weight": (width, inner),
            f"{attention}.relative_attention_bias.weight": (
                config.get("relative_attention_num_buckets", 32),
                heads,
            ),
            f"{layer}.0.layer_norm.weight": (width,),
            f"{layer}.1.layer_norm.weight": (width,),
            f"{dense}.wo.weight": (width, hidden),
        }
        inputs = ("wi_0", "wi_1") if is_gated else ("wi",)
        shapes |= {f"{dense}.{name}.weight": (hidden, width) for name in inputs}
    return shapes


def image_encoder_shapes(config: Config) -> Shapes:
    width, hidden = config.get("hidden_size", 768), config.get("intermediate_size", 3072)
    patch, channels = config.get("patch_size", 32), config.get("num_channels", 3)
    num_patches = (config.get("image_size", 224) // patch) ** 2
    shapes: Shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, channels, patch, patch),
        "embeddings.position_embedding.weight": (num_patches + 1, width),
        **_norm("pre_layrnorm", width),
        **_norm("post_layernorm", width),
    }
    for number in range(config.get("num_hidden_layers", 12)):
        layer = f"encoder.layers.{number}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", width, width)
        shapes |= _linear(f"{layer}.mlp.fc1", hidden, width)
        shapes |= _linear(f"{layer}.mlp.fc2", width, hidden)
        shapes |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
    return shapes


def _linear(name: str, num_outputs: int, num_inputs: int) -> Shapes:
    return {f"{name}.weight": (num_outputs, num_inputs), f"{name}.bias": (num_outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
