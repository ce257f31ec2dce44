"""Loads the components of a model folder, sharded over the ranks.

A model is created on the meta device, sharded, and only then filled, so that no rank ever holds
more than its slices. A single rank shards nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformer3DModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from ranks.device import Device
from ranks.errors import ModelFolderError
from ranks.model.transformer import ShardTransformer
from ranks.model.weight_match import Names, match_weights
from ranks.model_files.components import Component, ModelFiles
from ranks.parallel.sharding import load_weights, shard_text_encoder, shard_transformer

ModelT = TypeVar("ModelT", bound=nn.Module)

_TEXT_ENCODER = Names(unused=("decoder.", "lm_head."))
_IMAGE_ENCODER = Names(
    prefix="vision_model.",
    unused=("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
)


def check_fit(files: ModelFiles) -> None:
    """Check that the weights of every component fit its config, without reading them.

    Raises:
        ModelFolderError: With the first weight that does not fit.
    """
    components, dtype = files.components, torch.float32
    match_weights(meta_vae(components["vae"], dtype), components["vae"])
    encoder = components["image_encoder"]
    match_weights(meta_image_encoder(encoder), encoder, _IMAGE_ENCODER)
    encoder = components["text_encoder"]
    match_weights(meta_text_encoder(encoder, dtype), encoder, _TEXT_ENCODER)
    match_weights(meta_transformer(components["transformer"], dtype), components["transformer"])


def load_transformer(
    component: Component, device: Device, mesh: DeviceMesh | None
) -> ShardTransformer:
    """Load the transformer; modules that diffusers keeps in float32 stay in float32.

    Raises:
        ModelFolderError: If the weights do not fit the model.
    """
    model = meta_transformer(component, device.model_dtype)
    root = ShardTransformer(model, device.attention_backend, kernels=device.kernels)
    if mesh is not None:
        shard_transformer(root, model, mesh)
    fill_transformer(model, component, device.torch_device)
    return root


def meta_transformer(component: Component, dtype: torch.dtype) -> WanTransformer3DModel:
    """Return the transformer on the meta device, in its final dtypes."""
    with _on_meta(component):
        model: WanTransformer3DModel = WanTransformer3DModel.from_config(component.config)
    return _for_inference(model, dtype, keep_float32=model._keep_in_fp32_modules)


def fill_transformer(
    model: WanTransformer3DModel, component: Component, device: torch.device
) -> None:
    load_weights(model, component, device)
    config = model.config
    # No file contains the RoPE tables.
    model.rope = WanRotaryPosEmbed(
        config.attention_head_dim, config.patch_size, config.rope_max_seq_len
    ).to(device)


def load_text_encoder(
    component: Component, device: Device, mesh: DeviceMesh | None
) -> UMT5EncoderModel:
    model = meta_text_encoder(component, device.model_dtype)
    if mesh is not None:
        shard_text_encoder(model, mesh)
    load_weights(model, component, device.torch_device, _TEXT_ENCODER)
    return model


def meta_text_encoder(component: Component, dtype: torch.dtype) -> UMT5EncoderModel:
    with _on_meta(component):
        model = UMT5EncoderModel(UMT5Config.from_dict(component.config))
    return _for_inference(model, dtype)


def load_image_encoder(component: Component, device: torch.device) -> CLIPVisionModel:
    """Load the image encoder, in float32."""
    model = meta_image_encoder(component)
    load_weights(model, component, device, _IMAGE_ENCODER)
    # No file contains the numbers of the patches.
    numbers = model.embeddings.position_ids
    model.embeddings.position_ids = torch.arange(numbers.shape[1], device=device).expand(1, -1)
    return model


def meta_image_encoder(component: Component) -> CLIPVisionModel:
    with _on_meta(component):
        model = CLIPVisionModel(CLIPVisionConfig.from_dict(component.config))
    return _for_inference(model, torch.float32)


def load_vae(component: Component, dtype: torch.dtype, device: torch.device) -> AutoencoderKLWan:
    model = meta_vae(component, dtype)
    load_weights(model, component, device)
    return model


def meta_vae(component: Component, dtype: torch.dtype) -> AutoencoderKLWan:
    with _on_meta(component):
        model: AutoencoderKLWan = AutoencoderKLWan.from_config(component.config)
    return _for_inference(model, dtype)


@contextmanager
def _on_meta(component: Component) -> Iterator[None]:
    """Make a model on the meta device; its config may hold anything."""
    try:
        with torch.device("meta"):
            yield
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"the config of {component.place} describes no model that can be made: {error}; "
            "download it again"
        ) from error


def _for_inference(model: ModelT, dtype: torch.dtype, keep_float32: Sequence[str] = ()) -> ModelT:
    model.requires_grad_(requires_grad=False)
    for name, weight in model.named_parameters():
        is_kept = not set(keep_float32).isdisjoint(name.split("."))
        weight.data = weight.data.to(torch.float32 if is_kept else dtype)
    return model.eval()
