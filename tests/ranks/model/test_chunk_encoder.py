"""Compares the encoder that skips what repeats with diffusers' encoder of a whole clip."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ranks.demo.patch_vae_weights import make_patch_vae
from ranks.model.vae import GivenClip, encode_chunks, finish_encoding
from ranks.model.vae_norm import install_norm


def make_narrow_vae() -> AutoencoderKLWan:
    """Return a VAE with the layers of the real one."""
    torch.manual_seed(3)
    vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=4).eval()
    install_norm(vae)
    return vae


def make_narrow_patch_vae() -> AutoencoderKLWan:
    vae = make_patch_vae().eval()
    install_norm(vae)
    return vae


def images(num_images: int) -> Tensor:
    return torch.rand(num_images, 1, 3, 16, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def stock_latents(vae: AutoencoderKLWan, clip: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(numbers).view(1, -1, 1, 1, 1)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    latents: Tensor = (vae.encode(clip).latent_dist.mode() - mean) * (1.0 / std)
    return latents


@pytest.mark.parametrize(
    ("make_vae", "num_images", "num_frames", "share"),
    [
        (make_narrow_vae, 1, 81, 0.35),
        (make_narrow_vae, 2, 49, 0.6),
        (make_narrow_patch_vae, 1, 33, 0.6),
    ],
)
@torch.inference_mode()
def test_a_grey_tail_is_encoded_to_the_same_bits_for_less_work(
    make_vae: Callable[[], AutoencoderKLWan], num_images: int, num_frames: int, share: float
) -> None:
    vae, given = make_vae(), images(num_images)
    clip = torch.zeros(1, 3, num_frames, *given.shape[-2:])
    clip[:, :, 0] = given[0]
    if num_images > 1:
        clip[:, :, -1] = given[1]
    with FlopCounterMode(display=False) as plain:
        expected = stock_latents(vae, clip)
    with FlopCounterMode(display=False) as counted:
        found = finish_encoding(vae, list(encode_chunks(vae, GivenClip(num_frames, *given))))
    assert torch.equal(found, expected)
    assert counted.get_total_flops() <= share * plain.get_total_flops()


@torch.inference_mode()
def test_a_layer_that_has_not_settled_is_computed() -> None:
    """NaN equals nothing: no layer after it may count as settled."""
    vae = make_narrow_vae()
    vae.encoder.conv_in.bias.data[0] = torch.nan
    encoded = list(encode_chunks(vae, GivenClip(33, *images(1))))
    assert all(chunk.isnan().all() for chunk in encoded)


@pytest.mark.parametrize("num_frames", [1, 5, 9])
@torch.inference_mode()
def test_a_short_clip_has_one_chunk_a_latent_frame(num_frames: int) -> None:
    vae = make_narrow_vae()
    for num_images in (1, 2):
        encoded = list(encode_chunks(vae, GivenClip(num_frames, *images(num_images))))
        assert len(encoded) == num_frames // 4 + 1
