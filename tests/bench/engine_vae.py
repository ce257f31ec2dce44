"""The VAE in the engine benchmark: diffusers' calls, ours in one process, and ours split."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from ranks.model.vae import (
    GivenClip,
    Split,
    decode_chunks,
    encode_chunks,
    finish_encoding,
    num_latent_frames,
)
from ranks.parallel.vae_split import VaeSplit
from tests.ranks.model.peak_memory import PeakMemory
from tests.ranks.parallel.world import run_ranks

NUM_ROUNDS = 5
BASE_DIM = 16
"""A sixth of the real width."""

NUM_FRAMES = 9
HEIGHT, WIDTH = 16, 24
"""Shape of the latents."""


class VaeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Results of one direction: times by round, and peaks of rank 0 without weights."""

    stock_s: list[float]
    ours_s: list[float]
    split_s: list[float]
    peak_bytes: int
    split_peak_bytes: int


def _image() -> Tensor:
    """Return a first frame, `[1, 3, H, W]`."""
    return F.interpolate(_latents(3)[:, :, 0], scale_factor=8)


def encode(vae: AutoencoderKLWan, split: Split | None) -> Tensor:
    """Encode a first frame, padded with grey frames."""
    return finish_encoding(vae, list(encode_chunks(vae, GivenClip(NUM_FRAMES, _image()), split)))


def decode(vae: AutoencoderKLWan, split: Split | None) -> Tensor:
    return torch.cat(list(decode_chunks(vae, _latents(16), split)), dim=2)


def stock_encode(vae: AutoencoderKLWan) -> Tensor:
    """Encode as `encode` does, with diffusers' call."""
    image = _image().unsqueeze(2)
    grey = torch.zeros_like(image).expand(-1, -1, NUM_FRAMES - 1, -1, -1)
    latents: Tensor = vae.encode(torch.cat((image, grey), dim=2)).latent_dist.mode()
    return latents


def stock_decode(vae: AutoencoderKLWan) -> Tensor:
    """Decode as `decode` does, with diffusers' call."""
    frames: Tensor = vae.decode(_latents(16)).sample
    return frames


PASSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "encode": (encode, stock_encode),
    "decode": (decode, stock_decode),
}
"""Ours and diffusers'."""


def measure_vae(world_size: int) -> dict[str, VaeFigures]:
    found: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        for num_ranks, target in ((1, _measure_whole), (world_size, _measure_split)):
            run_ranks(num_ranks, target, path, limit_s=300)
            found.append(msgspec.json.decode(path.read_bytes()))
    whole, split = found
    return {name: VaeFigures(**whole[name], **split[name]) for name in PASSES}


@torch.inference_mode()
def _measure_whole(rank: int, world_size: int, path: Path) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    vae = _make_vae()
    found = {}
    for name, (ours, stock) in PASSES.items():
        rounds = [(_time_s(stock, vae), _time_s(ours, vae, None)) for _ in range(NUM_ROUNDS + 1)]
        stock_s, ours_s = zip(*rounds[1:], strict=True)
        with PeakMemory() as memory:
            ours(vae, None)
        found[name] = {"stock_s": stock_s, "ours_s": ours_s, "peak_bytes": memory.peak_bytes}
    path.write_bytes(msgspec.json.encode(found))


@torch.inference_mode()
def _measure_split(rank: int, world_size: int, path: Path) -> None:
    vae = _make_vae()
    found = {}
    for name, (ours, _) in PASSES.items():
        with VaeSplit(vae, rank, world_size).active(HEIGHT, WIDTH) as split:
            times = []
            for _ in range(NUM_ROUNDS + 1):
                dist.barrier()
                times.append(_time_s(ours, vae, split))
            with PeakMemory() as memory:
                ours(vae, split)
        found[name] = {"split_s": times[1:], "split_peak_bytes": memory.peak_bytes}
    if rank == 0:
        path.write_bytes(msgspec.json.encode(found))


def _make_vae() -> AutoencoderKLWan:
    torch.manual_seed(1)
    vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=BASE_DIM).eval()
    return vae


def _latents(num_channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (1, num_channels, num_latent_frames(NUM_FRAMES), HEIGHT, WIDTH)
    return torch.randn(shape, generator=generator)


def _time_s(work: Callable[..., Tensor], *args: object) -> float:
    begun = time.perf_counter()
    work(*args)
    return time.perf_counter() - begun
