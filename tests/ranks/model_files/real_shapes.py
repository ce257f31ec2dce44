"""The published models of Wan, by the dimensions of their configs: shapes without weights."""

from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from ranks.model_files.components import ComponentName
from tests.ranks.model.real_models import config_of

I2V = config_of("transformer")
FLF2V = I2V | {"pos_embed_seq_len": 514}
EXPERT = I2V | {"image_dim": None, "added_kv_proj_dim": None}
TI2V = EXPERT | {
    "num_attention_heads": 24,
    "ffn_dim": 14336,
    "num_layers": 30,
    "in_channels": 48,
    "out_channels": 48,
}
VAE_21 = config_of("vae")
VAE_22 = VAE_21 | {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
SMALL_VAE = VAE_21 | {"base_dim": 8, "num_res_blocks": 1}

CONFIGS: dict[str, tuple[ComponentName, dict[str, Any], int]] = {
    "Wan2.1 I2V-14B": ("transformer", I2V, 16_394_878_784),
    "Wan2.1 FLF2V-14B": ("transformer", FLF2V, 16_395_536_704),
    "Wan2.2 I2V-A14B, an expert": ("transformer_2", EXPERT, 14_288_901_184),
    "Wan2.2 TI2V-5B": ("transformer", TI2V, 4_999_787_712),
    "UMT5-XXL": ("text_encoder", config_of("text_encoder"), 5_680_910_336),
    "CLIP ViT-H/14": ("image_encoder", config_of("image_encoder"), 630_766_080),
    "VAE of Wan2.1": ("vae", VAE_21, 126_892_531),
    "VAE of Wan2.2": ("vae", VAE_22, 704_688_668),
    "a small VAE": ("vae", SMALL_VAE, 0),
}
"""Component, config and number of parameters; the last is not compared where it is 0."""


def make_on_meta(component: ComponentName, config: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        match component:
            case "transformer" | "transformer_2":
                return cast("nn.Module", WanTransformer3DModel.from_config(config))
            case "text_encoder":
                return cast("nn.Module", UMT5EncoderModel(UMT5Config(**config)))
            case "image_encoder":
                return cast("nn.Module", CLIPVisionModel(CLIPVisionConfig(**config)))
            case "vae":
                return cast("nn.Module", AutoencoderKLWan.from_config(config))
