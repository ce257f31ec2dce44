"""Compares the VAE chunk by chunk with the VAE of diffusers in one call."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from ranks.model.vae import (
    GivenClip,
    decode_chunks,
    encode_chunks,
    finish_encoding,
    num_latent_frames,
)
from ranks.model.weights import load_vae
from ranks.model_files.diffusers_folder import read_component
from tests.ranks.conftest import DemoFolders


@pytest.fixture(scope="module", params=["wan2.1-i2v", "wan2.2-ti2v-5b"])
def vae(request: pytest.FixtureRequest, demo_folders: DemoFolders) -> AutoencoderKLWan:
    component = read_component(demo_folders(request.param) / "vae")
    return load_vae(component, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("has_last", [False, True])
@torch.inference_mode()
def test_encoding_in_chunks_gives_identical_latents(vae: AutoencoderKLWan, has_last: bool) -> None:
    image, last = torch.randn(2, 1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    clip = torch.cat((image.unsqueeze(2), torch.zeros(1, 3, 8, 64, 80)), dim=2)
    if has_last:
        clip[:, :, -1] = last
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    expected = (vae.encode(clip).latent_dist.mode() - mean) * (1.0 / std)
    chunks = list(encode_chunks(vae, GivenClip(9, image, last if has_last else None)))
    assert [chunk.shape[2] for chunk in chunks] == [1, 1, 1]
    assert torch.equal(finish_encoding(vae, chunks), expected)


@torch.inference_mode()
def test_decoding_in_chunks_gives_identical_frames(vae: AutoencoderKLWan) -> None:
    shape = (1, vae.config.z_dim, 3, 8, 10)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    expected = vae.decode(latents / (1.0 / std) + mean).sample
    chunks = list(decode_chunks(vae, latents))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4]
    assert torch.equal(torch.cat(chunks, dim=2).clamp(-1.0, 1.0), expected)


def test_a_number_of_frames_not_of_the_form_4n_plus_1_is_refused() -> None:
    assert num_latent_frames(81) == 21
    with pytest.raises(ValueError, match="num_frames is 24; expected 4n"):
        num_latent_frames(24)
