"""The VAE in bfloat16: the same formulas in another order, each rounded once."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from ranks.demo.patch_vae_weights import make_patch_vae
from ranks.device import Device
from ranks.model.vae import GivenClip, decode_chunks, encode_chunks, finish_encoding
from ranks.model.vae_bfloat16 import install_bfloat16
from ranks.model.vae_norm import install_norm
from ranks.model.weights import load_served_vae
from ranks.model_files.diffusers_folder import read_component
from tests.ranks.conftest import DemoFolders

MakeVae = Callable[[], AutoencoderKLWan]


def small_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=8, num_res_blocks=1)


@pytest.fixture(params=[small_vae, make_patch_vae], ids=["pixels", "patches of pixels"])
def vae(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    make: MakeVae = request.param
    torch.manual_seed(7)
    vae = make().eval().requires_grad_(requires_grad=False)
    for name, weight in vae.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(weight, 0.5, 1.5)
    return vae


def encode(vae: AutoencoderKLWan) -> Tensor:
    """Encode a picture with a grey tail, whose layers settle, and a last frame."""
    first, last = torch.rand(2, 1, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    clip = GivenClip(13, first.to(vae.dtype), last.to(vae.dtype))
    return finish_encoding(vae, list(encode_chunks(vae, clip)))


def decode(vae: AutoencoderKLWan) -> Tensor:
    shape = (1, vae.config.z_dim, 2, 2, 3)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return torch.cat(list(decode_chunks(vae, latents)), dim=2).float()


@torch.inference_mode()
def test_in_float32_nothing_but_the_order_of_the_numbers_changes(vae: AutoencoderKLWan) -> None:
    """Every norm is followed by the activation that followed it before, and by no second one."""
    expected = encode(vae), decode(vae)
    install_bfloat16(vae, is_compiled=False)
    torch.testing.assert_close((encode(vae), decode(vae)), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_it_is_as_near_to_float32_as_a_plain_vae_in_bfloat16(vae: AutoencoderKLWan) -> None:
    expected = encode(vae), decode(vae)
    plain = nn.Module.to(vae, torch.bfloat16)
    install_norm(plain)
    fast = deepcopy(plain)
    install_bfloat16(fast, is_compiled=False)
    for exact, theirs, ours in zip(
        expected, (encode(plain), decode(plain)), (encode(fast), decode(fast)), strict=True
    ):
        assert (ours - exact).norm() <= 1.1 * (theirs - exact).norm()
        assert (ours - exact).norm() <= 0.05 * exact.norm()


def test_an_operator_chooses_the_dtype_that_the_vae_is_loaded_in(
    demo_folders: DemoFolders,
) -> None:
    component = read_component(demo_folders("wan2.1-i2v") / "vae")
    usual = load_served_vae(component, Device(kind="cpu", index=0))
    assert usual.dtype == torch.float32
    assert usual.decoder.conv_in.weight.is_contiguous()
    device = Device(kind="cpu", index=0, wanted_vae_dtype="bfloat16")
    chosen = load_served_vae(component, device)
    assert chosen.dtype == torch.bfloat16
    assert chosen.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_npu_has_bfloat16_in_its_own_order_unless_float32_is_asked_for() -> None:
    npu = Device(kind="npu", index=0)
    assert (npu.vae_dtype, npu.unusual_vae_dtype) == (torch.bfloat16, None)
    assert not npu.has_channels_last
    wide = Device(kind="npu", index=0, wanted_vae_dtype="float32")
    assert (wide.vae_dtype, wide.unusual_vae_dtype) == (torch.float32, "float32")
    cuda = Device(kind="cuda", index=0, wanted_vae_dtype="float32")
    assert (cuda.vae_dtype, cuda.unusual_vae_dtype) == (torch.float32, None)
