"""The 14B architecture on the meta device: shapes and dtypes without memory for weights."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

CONFIGS = Path(__file__).parents[2] / "data" / "wan14b"


def config_of(part: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{part}.json").read_text())
    return config


def in_dtypes(model: WanTransformer3DModel, dtype: torch.dtype) -> WanTransformer3DModel:
    """Convert a model as the loader does: some modules stay in float32."""
    wide = set(model._keep_in_fp32_modules)
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(torch.float32 if wide & set(name.split(".")) else dtype)
    return model


def real_models() -> tuple[
    WanTransformer3DModel, UMT5EncoderModel, CLIPVisionModel, AutoencoderKLWan
]:
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(config_of("transformer"))
        text_encoder = UMT5EncoderModel(UMT5Config(**config_of("text_encoder")))
        image_encoder = CLIPVisionModel(CLIPVisionConfig(**config_of("image_encoder")))
        vae = AutoencoderKLWan.from_config(config_of("vae"))
    nn.Module.to(text_encoder, torch.bfloat16)
    return in_dtypes(transformer, torch.bfloat16), text_encoder, image_encoder, vae
