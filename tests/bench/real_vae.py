"""The VAE on one device: as the server uses it, in float32 and in bfloat16, and other forms."""

from collections.abc import Callable
from functools import partial
from itertools import islice

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from ranks.device import Device
from ranks.model.vae import GivenClip, decode_chunks, encode_chunks, finish_encoding
from ranks.model.vae_bfloat16 import install_bfloat16
from tests.bench.budget import Works
from tests.bench.device_rates import peak_gb, time_s
from tests.bench.random_models import Size, make_vae

NUM_DECODED = 4
"""Latent frames; all but the first cost the same, so that the time of a clip follows."""


class VaePasses:
    """A VAE with random weights, and what a job has for it."""

    def __init__(self, size: Size, device: Device) -> None:
        self._size, self._device = size, device
        self._vae = make_vae(size, device.torch_device)
        frames, height, width = size.shape
        generator = torch.Generator().manual_seed(1)
        z_dim = self._vae.config.z_dim
        self._latents = torch.randn(1, z_dim, NUM_DECODED, height, width, generator=generator)
        self._image = torch.randn(1, 3, height * 8, width * 8, generator=generator)
        self._num_frames = 4 * frames - 3
        self._frames: dict[str, Tensor] = {}

    def works(self) -> Works:
        """Yield both directions, in the forms of the VAE; each form is made from the one before."""
        for name, change in (
            ("float32", lambda: None),
            ("float32, channels last", partial(_order_channels_last, self._vae)),
            ("bfloat16, plain", partial(_convert, self._vae)),
            ("bfloat16", self._install),
        ):
            yield f"vae/{name}, decode", partial(self._changed, change, name)
            if "," not in name:
                yield f"vae/{name}, encode", self._encode

    def differences(self) -> dict[str, float]:
        """Return the relative difference of each form's frames from those in float32."""
        plain = self._frames["float32"]
        return {
            name: float((frames - plain).norm() / plain.norm())
            for name, frames in self._frames.items()
        }

    def _install(self) -> None:
        install_bfloat16(self._vae, is_compiled=self._device.kernels != "plain")

    def _changed(self, change: Callable[[], None], name: str) -> dict[str, float]:
        change()
        return self._decode(name)

    def _decode(self, name: str) -> dict[str, float]:
        """Return the times of the first and of a later latent frame, and of a clip of them."""
        latents = self._latents.to(self._device.torch_device)
        list(islice(decode_chunks(self._vae, latents[..., :8, :8]), 2))  # loads kernels
        chunks = decode_chunks(self._vae, latents)
        times: list[float] = []
        frames: list[Tensor] = []

        def take() -> None:
            for _ in range(NUM_DECODED):
                times.append(time_s(self._device, lambda: frames.append(next(chunks)), 1, 0))

        peak = peak_gb(self._device, take)
        self._frames[name] = frames[0].float().cpu()
        first_s, *_, later_s = times
        clip_s = first_s + (self._size.shape[0] - 1) * later_s
        return {"first_s": first_s, "later_s": later_s, "clip_s": clip_s, "peak_gb": peak}

    def _encode(self) -> dict[str, float]:
        """Return the time of a picture and its grey frames, a whole clip."""
        image = self._image.to(self._device.torch_device, self._vae.dtype)
        clip = GivenClip(self._num_frames, image)

        def encode(given: GivenClip) -> None:
            finish_encoding(self._vae, list(encode_chunks(self._vae, given)))

        encode(GivenClip(5, image[..., :64, :64]))  # loads kernels
        times: list[float] = []
        peak = peak_gb(
            self._device, lambda: times.append(time_s(self._device, lambda: encode(clip), 1, 0))
        )
        return {"clip_s": times[0], "peak_gb": peak}


def _order_channels_last(vae: AutoencoderKLWan) -> None:
    """Change the weights of 3-D convolutions, whose order their outputs inherit."""
    for weight in vae.parameters():
        if weight.dim() == 5:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)


def _convert(vae: AutoencoderKLWan) -> None:
    nn.Module.to(vae, torch.bfloat16)
    for weight in vae.parameters():
        weight.data = weight.data.contiguous(memory_format=torch.contiguous_format)
