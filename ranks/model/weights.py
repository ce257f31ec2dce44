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
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from ranks.device import Device
from ranks.errors import ModelFolderError
from ranks.model.block_streaming import BlockStreaming
from ranks.model.quantized_linear import install_8bit
from ranks.model.transformer import ShardTransformer
from ranks.model.vae_bfloat16 import install_bfloat16
from ranks.model.vae_norm import install_norm
from ranks.model.weight_match import match_weights
from ranks.model_files.architecture import IMAGE_ENCODER_NAMES, TEXT_ENCODER_NAMES
from ranks.model_files.components import Component, ComponentName, ModelFiles
from ranks.offload import NOTHING, Offload
from ranks.parallel.sharding import load_weights, shard_text_encoder, shard_transformer

_CONFIG_ERRORS = (
    *(ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,  # of transformers' configs
)

ModelT = TypeVar("ModelT", bound=nn.Module)


def check_fit(files: ModelFiles) -> None:
    """Check that the weights of every component fit its config, without reading them.

    Raises:
        ModelFolderError: With the first weight that does not fit.
    """
    components, dtype = files.components, torch.float32
    match_weights(meta_vae(components["vae"], dtype), components["vae"])
    if encoder := components.get("image_encoder"):
        match_weights(meta_image_encoder(encoder), encoder, IMAGE_ENCODER_NAMES)
    encoder = components["text_encoder"]
    match_weights(meta_text_encoder(encoder, dtype), encoder, TEXT_ENCODER_NAMES)
    for transformer in _transformers(files):
        match_weights(meta_transformer(transformer, dtype), transformer)


def load_transformers(
    files: ModelFiles, device: Device, mesh: DeviceMesh | None, offload: Offload = NOTHING
) -> tuple[tuple[ShardTransformer, ...], tuple[BlockStreaming, ...]]:
    """Load the transformers; modules that diffusers keeps in float32 stay in float32.

    Returns:
        The transformers, and for each what keeps its blocks on the host, if so.

    Raises:
        ModelFolderError: If the weights do not fit the model.
    """
    parts = _transformers(files)
    if not offload.models:
        return tuple(load_transformer(part, device, mesh) for part in parts), ()
    # One after the other: the host never holds more than one before its blocks are packed.
    hosted = [_load_hosted_transformer(part, device, offload.num_resident) for part in parts]
    return tuple(root for root, _ in hosted), tuple(streaming for _, streaming in hosted)


def _load_hosted_transformer(
    component: Component, device: Device, num_resident: int | None
) -> tuple[ShardTransformer, BlockStreaming]:
    root = load_transformer(component, device, None, torch.device("cpu"))
    model, blocks = root.model, list(root.model.blocks)
    num_here = len(blocks) if num_resident is None else min(num_resident, len(blocks))
    streaming = BlockStreaming(blocks, num_here, device)
    in_blocks = set(model.blocks.modules())
    for module in set(model.modules()) - in_blocks:
        module._apply(lambda weight: weight.to(device.torch_device), recurse=False)
    return root, streaming


def _transformers(files: ModelFiles) -> list[Component]:
    names: tuple[ComponentName, ...] = ("transformer", "transformer_2")
    return [files.components[name] for name in names if name in files.components]


def load_transformer(
    component: Component,
    device: Device,
    mesh: DeviceMesh | None,
    target: torch.device | None = None,
) -> ShardTransformer:
    """Load a transformer that computes on a device, to it or to `target`."""
    model = meta_transformer(component, device.model_dtype)
    if component.quantization is not None:
        multiply = device.choose_multiply(component.quantization)
        install_8bit(model, component.quantized, component.quantization, multiply)
    root = ShardTransformer(
        model,
        device.attention_backend,
        kernels=device.kernels,
        attend_across=device.attend_across,
    )
    if mesh is not None:
        shard_transformer(root, model, mesh)
    fill_transformer(model, component, target or device.torch_device)
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
    component: Component, device: Device, mesh: DeviceMesh | None, *, on_host: bool = False
) -> UMT5EncoderModel:
    """Load the text encoder, to the device or to the host."""
    model = meta_text_encoder(component, device.model_dtype)
    if mesh is not None:
        shard_text_encoder(model, mesh)
    target = torch.device("cpu") if on_host else device.torch_device
    load_weights(model, component, target, TEXT_ENCODER_NAMES)
    return model


def meta_text_encoder(component: Component, dtype: torch.dtype) -> UMT5EncoderModel:
    with _on_meta(component):
        model = UMT5EncoderModel(UMT5Config.from_dict(component.config))
    return _for_inference(model, dtype)


def load_image_encoder(component: Component, device: torch.device) -> CLIPVisionModel:
    """Load the image encoder, in float32."""
    model = meta_image_encoder(component)
    load_weights(model, component, device, IMAGE_ENCODER_NAMES)
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
    install_norm(model)
    return model


def load_served_vae(component: Component, device: Device) -> AutoencoderKLWan:
    """Load the VAE as a rank serves it."""
    model = load_vae(component, device.vae_dtype, device.torch_device)
    if device.has_channels_last and device.vae_dtype == torch.bfloat16:
        install_bfloat16(model, is_compiled=device.kernels != "plain")
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
    except _CONFIG_ERRORS as error:
        raise ModelFolderError(
            f"the config of {component.place} describes no model that can be made: "
            f"{' '.join(str(error).split())}; download it again"
        ) from error


def _for_inference(model: ModelT, dtype: torch.dtype, keep_float32: Sequence[str] = ()) -> ModelT:
    model.requires_grad_(requires_grad=False)
    for name, weight in model.named_parameters():
        is_kept = not set(keep_float32).isdisjoint(name.split("."))
        weight.data = weight.data.to(torch.float32 if is_kept else dtype)
    return model.eval()
