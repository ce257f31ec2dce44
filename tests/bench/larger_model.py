"""A transformer whose steps take seconds on a CPU: the real proportions, a fifth of the width."""

from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from tests.ranks.model.real_models import config_of

_SIZES = {
    "num_attention_heads": 8,
    "attention_head_dim": 128,
    "added_kv_proj_dim": 1024,
    "ffn_dim": 2816,
    "num_layers": 4,
    "text_dim": 64,
    "image_dim": 32,
}


def make_larger_transformer(folder: Path) -> None:
    """Save it with random weights; 0.3 GB in float32."""
    torch.manual_seed(1)
    model = WanTransformer3DModel.from_config(config_of("transformer") | _SIZES)
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)
