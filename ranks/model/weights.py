"""Loads the components of a model folder, sharded over the ranks.

A model is created on the meta device, sharded, and only then filled, so that no rank ever holds
more than its slices. A single rank shards nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformer3DModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import UMT5Config, UMT5EncoderModel

from ranks.device import Device
from ranks.model.transformer import ShardTransformer
from ranks.parallel.sharding import load_weights, shard_text_encoder, shard_transformer

ModelT = TypeVar("ModelT", bound=nn.Module)


def load_transformer(folder: Path, device: Device, mesh: DeviceMesh | None) -> ShardTransformer:
    """Load the transformer; modules that diffusers keeps in float32 stay in float32.

    Raises:
        WeightsError: If the weights do not fit the model.
    """
    model = meta_transformer(folder, device.model_dtype)
    root = ShardTransformer(model, device.attention_backend, is_fused=device.is_fused)
    if mesh is not None:
        shard_transformer(root, model, mesh)
    fill_transformer(model, folder, device.torch_device)
    return root


def meta_transformer(folder: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """Return the transformer on the meta device, in its final dtypes."""
    config = WanTransformer3DModel.load_config(folder)
    with torch.device("meta"):
        model: WanTransformer3DModel = WanTransformer3DModel.from_config(config)
    return _for_inference(model, dtype, keep_float32=model._keep_in_fp32_modules)


def fill_transformer(model: WanTransformer3DModel, folder: Path, device: torch.device) -> None:
    load_weights(model, folder, device)
    config = model.config
    # No file contains the RoPE tables.
    model.rope = WanRotaryPosEmbed(
        config.attention_head_dim, config.patch_size, config.rope_max_seq_len
    ).to(device)


def load_text_encoder(folder: Path, device: Device, mesh: DeviceMesh | None) -> UMT5EncoderModel:
    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config.from_pretrained(folder))
    _for_inference(model, device.model_dtype)
    if mesh is not None:
        shard_text_encoder(model, mesh)
    load_weights(model, folder, device.torch_device)
    return model


def load_vae(folder: Path, dtype: torch.dtype, device: torch.device) -> AutoencoderKLWan:
    with torch.device("meta"):
        model: AutoencoderKLWan = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder))
    _for_inference(model, dtype)
    load_weights(model, folder, device)
    return model


def _for_inference(model: ModelT, dtype: torch.dtype, keep_float32: Sequence[str] = ()) -> ModelT:
    model.requires_grad_(requires_grad=False)
    for name, weight in model.named_parameters():
        is_kept = not set(keep_float32).isdisjoint(name.split("."))
        weight.data = weight.data.to(torch.float32 if is_kept else dtype)
    return model.eval()
