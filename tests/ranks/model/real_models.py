"""The real architectures on the meta device: shapes and dtypes without memory for weights."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from broker.wire.model_profile import Family

CONFIGS = Path(__file__).parents[2] / "data" / "wan14b"


def config_of(part: str, family: Family = "wan2.1-i2v") -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{part}.json").read_text())
    others = json.loads((CONFIGS / "other_families.json").read_text())
    changes: dict[str, Any] = others.get(family, {}).get(part, {})
    return config | changes


def in_dtypes(model: WanTransformer3DModel, dtype: torch.dtype) -> WanTransformer3DModel:
    """Convert a model as the loader does: some modules stay in float32."""
    wide = set(model._keep_in_fp32_modules)
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(torch.float32 if wide & set(name.split(".")) else dtype)
    return model


def real_transformer(family: Family, **changes: object) -> WanTransformer3DModel:
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config_of("transformer", family) | changes)
    return in_dtypes(model, torch.bfloat16)


def real_vae(family: Family) -> AutoencoderKLWan:
    config = config_of("vae", family)
    num_latents = config["z_dim"]
    config |= {"latents_mean": [0.0] * num_latents, "latents_std": [1.0] * num_latents}
    with torch.device("meta"):
        vae: AutoencoderKLWan = AutoencoderKLWan.from_config(config)
    return vae


def real_models() -> tuple[
    WanTransformer3DModel, UMT5EncoderModel, CLIPVisionModel, AutoencoderKLWan
]:
    with torch.device("meta"):
        text_encoder = UMT5EncoderModel(UMT5Config(**config_of("text_encoder")))
        image_encoder = CLIPVisionModel(CLIPVisionConfig(**config_of("image_encoder")))
    nn.Module.to(text_encoder, torch.bfloat16)
    transformer, vae = real_transformer("wan2.1-i2v"), real_vae("wan2.1-i2v")
    return transformer, text_encoder, image_encoder, vae
