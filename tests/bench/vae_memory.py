"""Peak memory of the real VAE at 1280*720, whole and split over 8 ranks, in float32.

`python -m tests.bench.vae_memory` runs it on the meta device with collectives that only have
shapes, so it needs neither weights nor memory. Scratch space of a device's kernels is not included.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from ranks.model.vae import GivenClip, Split, decode_chunks, encode_chunks
from ranks.parallel.vae_split import VaeSplit
from tests.ranks.model.peak_memory import PeakMemory

WORLD_SIZE = 8
CONFIG = Path(__file__).parents[1] / "data" / "wan14b" / "vae.json"
HEIGHT, WIDTH = 90, 160
"""Shape of the latents."""

Work = Callable[[AutoencoderKLWan, Split | None], Iterator[Tensor]]


def encode(vae: AutoencoderKLWan, split: Split | None) -> Iterator[Tensor]:
    """Encode 9 frames; a longer clip keeps inputs of layers for its next chunk, up to 15 % more."""
    image = torch.empty(1, 3, HEIGHT * 8, WIDTH * 8, device="meta")
    return encode_chunks(vae, GivenClip(9, image), split)


def decode(vae: AutoencoderKLWan, split: Split | None) -> Iterator[Tensor]:
    """Decode 9 frames; a longer clip has the same peak."""
    return decode_chunks(vae, torch.empty(1, 16, 3, HEIGHT, WIDTH, device="meta"), split)


@torch.inference_mode()
def peak_bytes(work: Work, *, is_split: bool) -> int:
    """Return the peak of rank 0, whose patch is among the largest."""
    with torch.device("meta"):
        vae: AutoencoderKLWan = AutoencoderKLWan.from_config(json.loads(CONFIG.read_text()))
    active = VaeSplit(vae, 0, WORLD_SIZE).active(HEIGHT, WIDTH) if is_split else nullcontext()
    with active as split, PeakMemory() as memory:
        for _ in work(vae, split):
            pass
    return int(memory.peak_bytes)


def main() -> None:
    dist.init_process_group("meta:fake", rank=0, world_size=WORLD_SIZE, store=FakeStore())
    for name, work in (("encode", encode), ("decode", decode)):
        whole, part = (peak_bytes(work, is_split=is_split) for is_split in (False, True))
        print(
            f"{name}: {whole / 1e9:.2f} GB whole, {part / 1e9:.2f} GB on each of {WORLD_SIZE} "
            f"ranks, {part / whole:.1%}"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
