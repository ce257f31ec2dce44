import pytest
import torch
import torch.distributed as dist
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ranks.demo.patch_vae_weights import make_patch_vae
from ranks.model.chunk_encoder import empty_cache
from ranks.model.vae import FRAMES_PER_LATENT, GivenClip, decode_chunks, encode_chunks
from ranks.model.vae_bfloat16 import install_bfloat16
from ranks.model.vae_norm import install_norm
from ranks.parallel.layout import grid_shape, split_evenly
from ranks.parallel.vae_split import VaePatch, VaeSplit
from tests.ranks.parallel.world import run_ranks

TOLERANCE = 1e-5
"""Largest absolute difference in float32; the values are of the order of 1."""

# Height and width in pixels: landscape, portrait, the smallest square, a long strip.
SIZES = [(80, 144), (208, 112), (64, 64), (64, 272), (144, 80)]


def small_vae() -> AutoencoderKLWan:
    torch.manual_seed(7)
    vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
    install_norm(vae)
    vae.eval()
    return vae


def encode(vae: AutoencoderKLWan, pixels: Tensor, patch: VaePatch | None) -> Tensor:
    """Return the whole moments of a clip."""
    own = pixels if patch is None else patch.take(pixels)
    moments = vae.encode(own).latent_dist.parameters
    return moments if patch is None else patch.gather(moments)


def decode(vae: AutoencoderKLWan, latents: Tensor, patch: VaePatch | None) -> Tensor:
    """Return the whole frames of a clip."""
    own = latents if patch is None else patch.take(latents)
    frames = vae.decode(own).sample
    return frames if patch is None else patch.gather(frames)


def clip(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return pixels and latents of a clip of 9 frames; they are independent of each other."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    pixels = torch.rand((1, 3, 9, height, width), generator=generator) * 2 - 1
    latents = torch.randn((1, 16, 3, height // 8, width // 8), generator=generator)
    return pixels, latents


@torch.inference_mode()
def compare_with_unsplit(rank: int, world_size: int, sizes: list[tuple[int, int]]) -> None:
    vae = small_vae()
    split = VaeSplit(vae, rank, world_size)
    for height, width in sizes:
        pixels, latents = clip(height, width)
        with split.active(height // 8, width // 8) as patch:
            assert patch is not None
            moments, frames = encode(vae, pixels, patch), decode(vae, latents, patch)
        if rank > 0:  # every rank has the same gathered result; one check is enough
            continue
        # After the split, the same VAE is whole again.
        torch.testing.assert_close(moments, encode(vae, pixels, None), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(frames, decode(vae, latents, None), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("world_size", "sizes"), [(2, SIZES[:1]), (3, SIZES[1:3]), (8, SIZES)])
def test_a_split_vae_equals_the_unsplit_one_at_every_size(
    world_size: int, sizes: list[tuple[int, int]]
) -> None:
    run_ranks(world_size, compare_with_unsplit, sizes)


@torch.inference_mode()
def compare_patches_of_pixels(rank: int, world_size: int, sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(7)
    vae = make_patch_vae().eval()
    install_norm(vae)
    split = VaeSplit(vae, rank, world_size)
    for height, width in sizes:
        pixels, _ = clip(height, width)
        given = GivenClip(9, pixels[:, :, 0], pixels[:, :, -1])
        latents = torch.randn((1, 48, 3, height // 16, width // 16))
        with split.active(height // 16, width // 16) as patch:
            assert patch is not None
            moments = torch.cat(list(encode_chunks(vae, given, patch)), dim=2)
            frames = torch.cat(list(decode_chunks(vae, latents, patch)), dim=2)
        if rank == 0:
            whole = torch.cat(list(encode_chunks(vae, given)), dim=2)
            torch.testing.assert_close(moments, whole, atol=TOLERANCE, rtol=0)
            whole = torch.cat(list(decode_chunks(vae, latents)), dim=2)
            torch.testing.assert_close(frames, whole, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("world_size", "sizes"), [(3, [(96, 160)]), (8, [(160, 96), (64, 32), (352, 64)])]
)
def test_a_split_vae_with_patches_of_pixels_equals_the_unsplit_one(
    world_size: int, sizes: list[tuple[int, int]]
) -> None:
    run_ranks(world_size, compare_patches_of_pixels, sizes)


@torch.inference_mode()
def compare_in_bfloat16(rank: int, world_size: int) -> None:
    for vae, scale in ((small_vae(), 8), (make_patch_vae().eval(), 16)):
        torch.nn.Module.to(vae, torch.bfloat16)
        install_norm(vae)
        install_bfloat16(vae, is_compiled=False)
        height, width = 64 // scale, 32 // scale
        image = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
        given = GivenClip(9, image.bfloat16())
        latents = torch.randn((1, vae.config.z_dim, 2, height, width))
        dist.broadcast(latents, src=0)
        with VaeSplit(vae, rank, world_size).active(height, width) as patch:
            assert patch is not None
            moments = torch.cat(list(encode_chunks(vae, given, patch)), dim=2)
            frames = torch.cat(list(decode_chunks(vae, latents, patch)), dim=2)
        for found, whole in (
            (moments, torch.cat(list(encode_chunks(vae, given)), dim=2)),
            (frames, torch.cat(list(decode_chunks(vae, latents)), dim=2)),
        ):
            assert (found - whole).norm() <= 0.02 * whole.norm()


@pytest.mark.full
def test_a_split_vae_in_bfloat16_equals_the_unsplit_one_up_to_rounding() -> None:
    run_ranks(2, compare_in_bfloat16)


@torch.inference_mode()
def encode_a_grey_tail(rank: int, world_size: int) -> None:
    torch.manual_seed(7)
    vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=4, num_res_blocks=1).eval()
    image = torch.rand(1, 3, 48, 32) * 2 - 1
    half_grey = image.clone()
    half_grey[:, :, 16:] = 0
    runs: list[None] = []
    vae.encoder.conv_in.register_forward_hook(lambda *_: runs.append(None))
    for first in (image, half_grey):
        with VaeSplit(vae, rank, world_size).active(6, 4) as patch:
            assert patch is not None
            skipping = torch.cat(list(encode_chunks(vae, GivenClip(33, first), patch)), dim=2)
            # One for the image, and two until its input and what it remembers repeat.
            assert len(runs) == 3
            clip = torch.zeros(1, 3, 33, 48, 32)
            clip[:, :, 0] = first
            chunks = [clip[:, :, :1], *clip[:, :, 1:].split(FRAMES_PER_LATENT, dim=2)]
            cache = empty_cache(vae.encoder)
            plain = [
                patch.gather(vae.encoder(patch.take(chunk), feat_cache=cache, feat_idx=[0]))
                for chunk in chunks
            ]
            assert torch.equal(skipping, torch.cat(plain, dim=2))
            runs.clear()


def test_ranks_skip_the_same_layers_of_a_grey_tail() -> None:
    """Of a picture with grey rows, the last rank's layers settle earlier than the first's."""
    run_ranks(3, encode_a_grey_tail)


@torch.inference_mode()
def attend_with_fused_kernels(rank: int, world_size: int) -> None:
    vae = small_vae()
    pixels, latents = clip(64, 64)
    split = VaeSplit(vae, rank, world_size)
    with split.active(8, 8) as patch, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        encode(vae, pixels, patch)
        decode(vae, latents, patch)


def test_the_attention_of_a_split_vae_can_be_fused() -> None:
    """Fused kernels refuse channels that are not contiguous, and torch would take a slow one."""
    run_ranks(2, attend_with_fused_kernels)


@pytest.mark.full
def test_a_split_vae_equals_the_unsplit_one_at_many_sizes() -> None:
    sizes = [(height, width) for height in range(64, 129, 16) for width in range(64, 129, 16)]
    run_ranks(8, compare_with_unsplit, sizes, limit_s=300.0)


@torch.inference_mode()
def run_too_small_a_clip(rank: int, world_size: int) -> None:
    vae = small_vae()
    with VaeSplit(vae, rank, world_size).active(2, 9) as patch:
        assert patch is None
        decode(vae, torch.zeros(1, 16, 1, 2, 9), patch)


def test_a_clip_with_fewer_rows_than_ranks_is_not_split() -> None:
    run_ranks(3, run_too_small_a_clip)


@torch.inference_mode()
def fail_while_split(rank: int, world_size: int) -> None:
    vae = small_vae()
    _, latents = clip(64, 64)
    whole = decode(vae, latents, None)
    split = VaeSplit(vae, rank, world_size)
    with pytest.raises(RuntimeError, match="cancelled"), split.active(8, 8):
        raise RuntimeError("cancelled")
    assert torch.equal(decode(vae, latents, None), whole)


def test_a_failed_run_leaves_the_vae_unsplit() -> None:
    run_ranks(2, fail_while_split)


@torch.inference_mode()
def gather_back(rank: int, world_size: int) -> None:
    heights, widths = [3, 2, 2, 2], [4, 3]
    patch = VaePatch(rank, heights, widths, None, torch.device("cpu"))
    for scale in (1, 8):
        whole = torch.arange(2 * 9 * 7 * scale**2).reshape(1, 2, 9 * scale, 7 * scale)
        own = patch.take(whole)
        row, col = divmod(rank, 2)
        assert own.shape[-2:] == (heights[row] * scale, widths[col] * scale)
        assert torch.equal(patch.gather(own), whole)
    dist.barrier()


def test_gathering_patches_restores_the_whole_map() -> None:
    run_ranks(8, gather_back)


@pytest.mark.parametrize(
    ("world_size", "shape"), [(1, (1, 1)), (2, (2, 1)), (4, (4, 1)), (7, (7, 1)), (8, (4, 2))]
)
def test_ranks_form_a_grid(world_size: int, shape: tuple[int, int]) -> None:
    assert grid_shape(world_size) == shape


def test_the_first_parts_are_longer_if_the_split_is_uneven() -> None:
    assert split_evenly(90, 4) == [23, 23, 22, 22]
    assert split_evenly(160, 2) == [80, 80]
    assert split_evenly(8, 8) == [1] * 8


def test_a_vae_with_an_unknown_convolution_is_refused() -> None:
    vae = small_vae()
    vae.decoder.conv_out = WanCausalConv3d(8, 3, 5)
    split = VaeSplit(vae, rank=0, world_size=2)
    with pytest.raises(ValueError, match="cannot be split: WanCausalConv3d"), split.active(8, 8):
        pass
