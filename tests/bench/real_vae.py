"""The VAE on one device: float32 as the server uses it, bfloat16, and other memory formats."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from ranks.device import Device
from ranks.model.vae import GivenClip, decode_chunks, encode_chunks
from tests.bench.device_rates import peak_gb, time_s
from tests.bench.random_models import Size, make_vae

NUM_SAMPLE_FRAMES = 3
"""Latent frames of a variant; the whole clip is extrapolated: all but the first cost the same."""


def vae_variants(size: Size, device: Device) -> dict[str, Any]:
    """Return time and peak memory of the product's VAE on a whole clip, and of its variants."""
    vae = make_vae(size, device.torch_device)
    found = {"served, whole clip": _measure(vae, size, device, size.shape[0])}
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            _convert(vae, dtype, layout)
            name = f"{dtype}, {layout}".replace("torch.", "")
            found[name] = _measure(vae, size, device, NUM_SAMPLE_FRAMES)
    return found


def _convert(vae: AutoencoderKLWan, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Convert the weights of 3-D convolutions to a memory format, which their outputs inherit."""
    nn.Module.to(vae, dtype)
    for weight in vae.parameters():
        if weight.dim() == 5:
            weight.data = weight.data.contiguous(memory_format=layout)


def _measure(
    vae: AutoencoderKLWan, size: Size, device: Device, num_frames: int
) -> dict[str, float]:
    _, height, width = size.shape
    target = {"device": device.torch_device, "dtype": vae.dtype}
    latents = torch.randn(1, vae.config.z_dim, num_frames, height, width, **target)
    image = torch.randn(1, 3, height * 8, width * 8, **target)
    passes: dict[str, Callable[[], Iterator[Tensor]]] = {
        "decode": partial(decode_chunks, vae, latents),
        "encode": partial(encode_chunks, vae, GivenClip(4 * num_frames - 3, image)),
    }
    found = {"latent_frames": float(num_frames)}
    for name, work in passes.items():
        exhaust = partial(_exhaust, work)
        found[f"{name}_peak_gb"] = peak_gb(device, exhaust)
        found[f"{name}_s"] = time_s(device, exhaust, repeats=1, warm_ups=0)
    return found


def _exhaust(work: Callable[[], Iterator[Tensor]]) -> None:
    for _ in work():
        pass
