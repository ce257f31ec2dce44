"""Compares the norm of the VAE with diffusers'."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanRMS_norm
from torch import Tensor

from ranks.model.vae_norm import install_norm


def norm_of(vae: AutoencoderKLWan) -> WanRMS_norm:
    norm = vae.decoder.norm_out
    assert isinstance(norm, WanRMS_norm)
    return norm


def stock(norm: WanRMS_norm, x: Tensor) -> Tensor:
    normed: Tensor = WanRMS_norm.forward(norm, x)
    return normed


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e6])
def test_the_norm_is_as_exact_as_that_of_diffusers(size: float) -> None:
    """At 1e-30, the squares are too small for float32, and lengths are taken for 1e-12."""
    vae = AutoencoderKLWan(base_dim=16, num_res_blocks=1).requires_grad_(requires_grad=False)
    install_norm(vae)
    norm = norm_of(vae)
    torch.nn.init.uniform_(norm.gamma, 0.5, 1.5)
    x = torch.randn(1, 16, 4, 16, 24, generator=torch.Generator().manual_seed(1)) * size
    exact = torch.nn.functional.normalize(x.double(), dim=1) * norm.scale * norm.gamma.double()
    found, theirs = norm(x), stock(norm, x)
    torch.testing.assert_close(found, theirs, atol=1e-6, rtol=1e-5)
    assert (found - exact).abs().max() <= (theirs - exact).abs().max() + 1e-6
    half = x.bfloat16()
    norm.bfloat16()
    assert norm(half).dtype == torch.bfloat16
    torch.testing.assert_close(norm(half), stock(norm, half), atol=1e-6, rtol=2**-6)


@torch.inference_mode()
def test_a_vae_with_the_norm_equals_that_of_diffusers_to_1e_5() -> None:
    torch.manual_seed(7)
    vae = AutoencoderKLWan(base_dim=8).eval()
    pixels = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    latents = torch.randn(1, 16, 2, 4, 6)
    expected = vae.encode(pixels).latent_dist.mode(), vae.decode(latents).sample
    install_norm(vae)
    found = vae.encode(pixels).latent_dist.mode(), vae.decode(latents).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.equal(found[1], expected[1]), "the norm is not the one installed"
