"""The configs that the shapes in original files imply; the files state hardly any."""

import math
import re
from collections.abc import Mapping
from typing import Any

Shape = tuple[int, ...]

IMAGE_ENCODER_HEADS = 16
"""Of CLIP ViT-H/14, which all models of Wan2.1 have. No shape tells it."""

HEAD_DIM = 128
"""Channels of a head in every transformer of Wan, for files without a config."""


def transformer_config(shapes: Mapping[str, Shape], num_heads: int | None) -> dict[str, Any]:
    """Return the config of `WanTransformer3DModel`.

    Args:
        shapes: By original name.
        num_heads: Attention heads, which no shape tells; None if no config states them.

    Raises:
        LookupError: If it is not a transformer of Wan.
    """
    dim, in_channels, *patch = shapes["patch_embedding.weight"]
    has_image = "img_emb.proj.1.weight" in shapes
    heads = num_heads or max(dim // HEAD_DIM, 1)
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": patch,
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": in_channels,
        "out_channels": shapes["head.head.weight"][0] // math.prod(patch),
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": _count(r"blocks\.(\d+)\.", shapes),
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": shapes["img_emb.proj.1.weight"][1] if has_image else None,
        "added_kv_proj_dim": dim if "blocks.0.cross_attn.k_img.weight" in shapes else None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": shapes["img_emb.emb_pos"][1] if "img_emb.emb_pos" in shapes else None,
    }


def text_encoder_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the config of `UMT5EncoderModel`.

    Raises:
        LookupError: If it is not UMT5.
    """
    vocab_size, d_model = shapes["token_embedding.weight"]
    buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
    return {
        "model_type": "umt5",
        "vocab_size": vocab_size,
        "d_model": d_model,
        "d_kv": shapes["blocks.0.attn.q.weight"][0] // heads,
        "d_ff": shapes["blocks.0.ffn.fc1.weight"][0],
        "num_layers": _count(r"blocks\.(\d+)\.", shapes),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
    }


def image_encoder_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the config of `CLIPVisionModel`.

    Raises:
        LookupError: If it is not open-CLIP with a visual tower.
    """
    hidden_size, _, patch, _ = shapes["visual.patch_embedding.weight"]
    num_patches = shapes["visual.pos_embedding"][1] - 1  # and the class token
    return {
        "model_type": "clip_vision_model",
        "hidden_size": hidden_size,
        "intermediate_size": shapes["visual.transformer.0.mlp.0.weight"][0],
        "num_hidden_layers": _count(r"visual\.transformer\.(\d+)\.", shapes),
        "num_attention_heads": IMAGE_ENCODER_HEADS,
        "image_size": math.isqrt(num_patches) * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }


def _count(numbered: str, names: Mapping[str, Shape]) -> int:
    return len({match[1] for name in names if (match := re.match(numbered, name))})
