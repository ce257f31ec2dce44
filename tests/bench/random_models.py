"""Models with random weights: the real sizes, or miniatures of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from ranks.model.quantized_linear import DTYPES, SCALE
from ranks.model.transformer import LatentShape
from ranks.model.vae_norm import install_norm
from tests.ranks.model.real_models import config_of, in_dtypes

ModelT = TypeVar("ModelT", bound=nn.Module)

_SPREAD_8BIT = 20.0

_MINIATURE: dict[str, dict[str, Any]] = {
    "transformer": {
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "added_kv_proj_dim": 128,
        "ffn_dim": 256,
        "num_layers": 2,
        "text_dim": 64,
        "image_dim": 32,
    },
    "text_encoder": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2},
    "image_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
    },
    "vae": {"base_dim": 8, "num_res_blocks": 1},
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """The models' size and the latents they work on."""

    shape: LatentShape
    is_miniature: bool
    num_layers: int | None = None
    """Of the transformer; None for all."""

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a component."""
        config = config_of(part) | (_MINIATURE[part] if self.is_miniature else {})
        if part == "transformer" and self.num_layers is not None:
            config["num_layers"] = self.num_layers
        return config

    @property
    def num_tokens(self) -> int:
        return math.prod(self.shape) // int(math.prod(self.config("transformer")["patch_size"]))


REAL = Size(shape=(21, 90, 160), is_miniature=False)
MINIATURE = Size(shape=(3, 12, 16), is_miniature=True)


def make_transformer(
    size: Size,
    device: torch.device,
    dtype: torch.dtype,
    change: Callable[[WanTransformer3DModel], None] | None = None,
) -> WanTransformer3DModel:
    """Return the transformer in the dtypes that the product's loader uses.

    `change` may replace layers before there are weights.
    """
    config = size.config("transformer")
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    in_dtypes(model, dtype)
    if change is not None:
        change(model)
    _fill(model, device)
    model.rope = WanRotaryPosEmbed(
        config["attention_head_dim"], config["patch_size"], config["rope_max_seq_len"]
    ).to(device)
    return model


def make_stock(ours: WanTransformer3DModel, size: Size) -> WanTransformer3DModel:
    """Return diffusers' stock transformer with the weights of another one."""
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(size.config("transformer"))
    model.load_state_dict(ours.state_dict(), assign=True)
    model.rope = ours.rope
    model.requires_grad_(requires_grad=False)
    stock: WanTransformer3DModel = model.eval()
    return stock


def make_text_encoder(size: Size, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**size.config("text_encoder")))
    return _fill(nn.Module.to(model, dtype), device)


def make_image_encoder(size: Size, device: torch.device) -> CLIPVisionModel:
    """Return the image encoder in float32, as the server uses it."""
    with torch.device("meta"):
        model = CLIPVisionModel(CLIPVisionConfig(**size.config("image_encoder")))
    _fill(model, device)
    numbers = model.embeddings.position_ids
    model.embeddings.position_ids = torch.arange(numbers.shape[1], device=device).expand(1, -1)
    return model


def make_vae(size: Size, device: torch.device) -> AutoencoderKLWan:
    """Return the VAE in float32."""
    with torch.device("meta"):
        model = AutoencoderKLWan.from_config(size.config("vae"))
    install_norm(model)
    return _fill(model, device)


def _fill(model: ModelT, device: torch.device) -> ModelT:
    """Give a model on the meta device small random weights; zeros would compute too fast."""
    nn.Module.to_empty(model, device=device)
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        if weight.dtype in DTYPES:
            # Far below the largest number of either dtype.
            weight.copy_(torch.randn(weight.shape, device=device) * _SPREAD_8BIT)
        elif name.endswith(SCALE):
            nn.init.constant_(weight, 0.02 / _SPREAD_8BIT)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
        else:
            nn.init.constant_(weight, 0.0 if name.endswith("bias") else 1.0)
    return model.eval()
