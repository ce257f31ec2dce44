"""Weights of diffusers models, read tensor by tensor from their folder to their device."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformer3DModel
from safetensors import safe_open
from torch import nn


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device
) -> WanTransformer3DModel:
    """Load the transformer; the modules that diffusers keeps in float32 stay in it."""
    model = meta_transformer(folder)
    load_weights(model, folder, dtype, device, keep_float32=model._keep_in_fp32_modules)
    return model.eval()


def meta_transformer(folder: Path) -> WanTransformer3DModel:
    """Return the transformer with all that its weights files do not hold."""
    config = WanTransformer3DModel.load_config(folder)
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    # Its tables are computed, not loaded; on the meta device they would hold nothing.
    model.rope = WanRotaryPosEmbed(
        model.config.attention_head_dim, model.config.patch_size, model.config.rope_max_seq_len
    )
    return model


def load_vae(folder: Path, dtype: torch.dtype, device: torch.device) -> AutoencoderKLWan:
    """Load the VAE."""
    config = AutoencoderKLWan.load_config(folder)
    with torch.device("meta"):
        model = AutoencoderKLWan.from_config(config)
    load_weights(model, folder, dtype, device)
    return model.eval()


def load_weights(
    model: nn.Module,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    keep_float32: list[str] | None = None,
) -> None:
    """Fill a model on the meta device from its weights files.

    One tensor at a time is read, converted and sent to the device, so that the host never holds
    the model.

    Args:
        model: Filled in place.
        folder: Holds the safetensors files.
        dtype: Of the weights.
        device: Of the weights.
        keep_float32: Names of modules whose weights are not converted.

    Raises:
        RuntimeError: If the files lack a weight, or hold one that the model does not have.
    """
    wide = set(keep_float32 or ())
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                wanted = torch.float32 if wide & set(name.split(".")) else dtype
                weights[name] = file.get_tensor(name).to(device, wanted)
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(requires_grad=False)
