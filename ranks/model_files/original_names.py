"""The names of weights in the original files of Wan, and those of diffusers and transformers.

Each function takes the name of a tensor in a file, and returns the names of the weights in it: one,
except where queries, keys and values are in one tensor. None: the model has no such weight.
"""

import re

Names = tuple[str, ...]

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")

TRANSFORMER_WHOLE = {
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
}

TRANSFORMER_TABLES = {
    "head.modulation": "scale_shift_table",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
}

_ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
}

TRANSFORMER_BLOCK = {
    **{f"self_attn.{old}": f"attn1.{new}" for old, new in _ATTENTION.items()},
    **{f"cross_attn.{old}": f"attn2.{new}" for old, new in _ATTENTION.items()},
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    # The only norm of a block with weights.
    "norm3": "norm2",
}

TEXT_ENCODER_WHOLE = {
    "token_embedding.weight": "shared.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
}

TEXT_ENCODER_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    **{f"attn.{name}": f"layer.0.SelfAttention.{name}" for name in "qkvo"},
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}

IMAGE_ENCODER_WHOLE = {
    "cls_embedding": "embeddings.class_embedding",
    "pos_embedding": "embeddings.position_embedding.weight",
    "patch_embedding.weight": "embeddings.patch_embedding.weight",
    "pre_norm.weight": "pre_layrnorm.weight",
    "pre_norm.bias": "pre_layrnorm.bias",
    "post_norm.weight": "post_layernorm.weight",
    "post_norm.bias": "post_layernorm.bias",
}

IMAGE_ENCODER_LAYER = {
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attn.to_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.0": ("mlp.fc1",),
    "mlp.2": ("mlp.fc2",),
}

_VISUAL = "visual."
_LAYER = re.compile(r"transformer\.(\d+)\.(.+)\.(weight|bias)")


def transformer_names(name: str) -> Names | None:
    """Return the names in `WanTransformer3DModel`."""
    if match := _BLOCK.fullmatch(name):
        number, module, kind = match.groups()
        new = TRANSFORMER_BLOCK.get(module)
        return None if new is None else (f"blocks.{number}.{new}.{kind}",)
    if match := re.fullmatch(r"blocks\.(\d+)\.modulation", name):
        return (f"blocks.{match[1]}.scale_shift_table",)
    module, _, kind = name.rpartition(".")
    if module in TRANSFORMER_WHOLE and kind in ("weight", "bias"):
        return (f"{TRANSFORMER_WHOLE[module]}.{kind}",)
    return (TRANSFORMER_TABLES[name],) if name in TRANSFORMER_TABLES else None


def text_encoder_names(name: str) -> Names | None:
    """Return the names in `UMT5EncoderModel`."""
    if match := _BLOCK.fullmatch(name):
        number, module, kind = match.groups()
        new = TEXT_ENCODER_BLOCK.get(module)
        return None if new is None else (f"encoder.block.{number}.{new}.{kind}",)
    return (TEXT_ENCODER_WHOLE[name],) if name in TEXT_ENCODER_WHOLE else None


def image_encoder_names(name: str) -> Names | None:
    """Return the names in `CLIPVisionModel`: none for a tensor of the text tower or the head."""
    if name.startswith("textual.") or name in ("log_scale", "visual.head"):
        return ()
    own = name.removeprefix(_VISUAL)
    if own == name:
        return None
    if match := _LAYER.fullmatch(own):
        number, module, kind = match.groups()
        new = IMAGE_ENCODER_LAYER.get(module)
        return None if new is None else tuple(f"encoder.layers.{number}.{n}.{kind}" for n in new)
    return (IMAGE_ENCODER_WHOLE[own],) if own in IMAGE_ENCODER_WHOLE else None
