"""A folder that passes for a model before ranks load it: few blocks, and holes for weights."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranks.model_files.architecture import (
    image_encoder_shapes,
    text_encoder_shapes,
    transformer_shapes,
)
from ranks.model_files.vae_architecture import vae_shapes

NUM_HEADS = 40

FILES: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "WanImageToVideoPipeline"},
    "tokenizer/tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"},
    "tokenizer/tokenizer.json": {},
    "text_encoder/config.json": {
        "model_type": "umt5",
        "d_model": 4096,
        "vocab_size": 8,
        "num_layers": 1,
        "d_ff": 8,
    },
    "image_encoder/config.json": {
        "model_type": "clip_vision_model",
        "hidden_size": 1280,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
        "patch_size": 14,
        "intermediate_size": 8,
        "image_size": 224,
    },
    "image_processor/preprocessor_config.json": {"crop_size": {"height": 224, "width": 224}},
    "transformer/config.json": {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": NUM_HEADS,
        "attention_head_dim": 2,
        "num_layers": 1,
        "ffn_dim": 8,
        "in_channels": 36,
        "out_channels": 16,
        "text_dim": 4096,
        "image_dim": 1280,
        "pos_embed_seq_len": None,
    },
    "vae/config.json": {"_class_name": "AutoencoderKLWan", "z_dim": 16, "base_dim": 8},
}

WEIGHTS = {
    "text_encoder": "model",
    "image_encoder": "model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
"""Stem of the file names of each component's weights."""

SHAPES = {
    "text_encoder": text_encoder_shapes,
    "image_encoder": image_encoder_shapes,
    "transformer": transformer_shapes,
    "vae": vae_shapes,
}

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1}


def make_stub_model(folder: Path, num_heads: int = NUM_HEADS) -> Path:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    set_fields(folder / "transformer" / "config.json", num_attention_heads=num_heads)
    for part, stem in WEIGHTS.items():
        config = json.loads((folder / part / "config.json").read_text())
        write_holes(folder / part / f"{stem}.safetensors", SHAPES[part](config))
    return folder


def write_holes(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> None:
    """Write a safetensors file whose tensors are all zero and take no disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


def set_fields(path: Path, **fields: object) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def write_weights(path: Path, dtypes: dict[str, str]) -> None:
    """Write a safetensors file of tensors with two elements each, by name and dtype."""
    header, end = {}, 0
    for name, dtype in dtypes.items():
        begin, end = end, end + 2 * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": [2], "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(end))
