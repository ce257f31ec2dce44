"""What encoding a picture costs: `python -m tests.bench.encode [--json FILE]`.

By count: the operations of the real VAE at 1280*720 and 81 frames, without those of layers whose
results repeat. Which layers repeat depends on their order and not on their width, so a narrow VAE
shows it. By time: a VAE a sixth as wide, of which all layers are computed, first with the norm of
diffusers. It takes three minutes on an idle core.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ranks.model.vae import GivenClip, encode_chunks, encode_clip, finish_encoding
from ranks.model.vae_norm import install_norm
from tests.bench.engine_vae import BASE_DIM
from tests.bench.report import machine, write_report
from tests.ranks.model.real_models import real_vae

NUM_FRAMES = 81
REAL_SIZE, SIZE = (720, 1280), (128, 192)
"""Height and width in pixels."""


class EncodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Results by the number of given images: the first, or the first and the last."""

    machine: dict[str, str]
    shares: dict[int, float]
    """Of the operations of all layers."""
    times_s: dict[int, dict[str, float]]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shares, times_s = {}, {}
    for num_images in (1, 2):
        shares[num_images] = _share(num_images)
        times_s[num_images] = _times_s(num_images, arguments.rounds)
        print(f"{num_images} given: {shares[num_images]:.1%} of the operations", end="")
        plain_s = times_s[num_images]["all layers"]
        for name, found_s in times_s[num_images].items():
            print(f"; {name} {found_s:.2f} s, {found_s / plain_s:.0%}", end="")
        print(flush=True)
    write_report(arguments.json, EncodeFigures(machine=machine(), shares=shares, times_s=times_s))


def _share(num_images: int) -> float:
    """Return the share of the real VAE's operations that is left."""
    narrow: AutoencoderKLWan = AutoencoderKLWan(base_dim=4).eval()
    given = torch.rand(num_images, 1, 3, 16, 16)
    num_calls: Counter[str] = Counter()
    for name, layer in _layers(narrow):
        layer.register_forward_hook(lambda *_, name=name: num_calls.update([name]))
    list(encode_chunks(narrow, GivenClip(NUM_FRAMES, *given)))

    # The first chunk is shorter; all others take the same operations.
    two, three = (_real_operations(num_frames) for num_frames in (5, 9))
    rest = {name: three[name] - two[name] for name in two}
    first = {name: two[name] - rest[name] for name in two}
    num_chunks = NUM_FRAMES // 4
    left = sum(first[name] + rest[name] * (num_calls[name] - 1) for name in first)
    return left / sum(first[name] + rest[name] * num_chunks for name in first)


def _real_operations(num_frames: int) -> dict[str, int]:
    """Return the operations of each layer of the real encoder."""
    vae = real_vae("wan2.1-i2v")
    clip = torch.empty(1, 3, num_frames, *REAL_SIZE, device="meta")
    with FlopCounterMode(display=False) as counter:
        encode_clip(vae, clip)
    counted = counter.get_flop_counts()
    return {
        name: sum(counted[f"{type(vae.encoder).__name__}.{name}"].values())
        for name, _ in _layers(vae)
    }


def _layers(vae: AutoencoderKLWan) -> list[tuple[str, torch.nn.Module]]:
    """Return the layers that an encoder repeats or computes as one, with their names."""
    encoder = vae.encoder
    parts = ("conv_in", "mid_block.attentions.0", "conv_out")
    blocks = [f"down_blocks.{number}" for number in range(len(encoder.down_blocks))]
    blocks += [f"mid_block.resnets.{number}" for number in range(len(encoder.mid_block.resnets))]
    return [(name, encoder.get_submodule(name)) for name in (*parts, *blocks)]


def _times_s(num_images: int, num_rounds: int) -> dict[str, float]:
    """Return processor times, medians of alternating rounds; the latents must not differ."""
    with_stock_norm, vae = _make_vae(), _make_vae()
    install_norm(vae)
    given = torch.rand(num_images, 1, 3, *SIZE) * 2 - 1
    clip = torch.zeros(1, 3, NUM_FRAMES, *SIZE)
    clip[:, :, 0], clip[:, :, -1] = given[0], given[-1] if num_images > 1 else 0.0
    ways: dict[str, Callable[[], Tensor]] = {
        "all layers, norm of diffusers": lambda: encode_clip(with_stock_norm, clip),
        "all layers": lambda: encode_clip(vae, clip),
        "without repeats": lambda: finish_encoding(
            vae, list(encode_chunks(vae, GivenClip(NUM_FRAMES, *given)))
        ),
    }
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Tensor] = {}
    for _ in range(num_rounds):
        for name, encode in ways.items():
            begun_s = time.process_time()
            found[name] = encode()
            times_s[name].append(time.process_time() - begun_s)
    if not torch.equal(found["without repeats"], found["all layers"]):
        raise SystemExit("the latents differ: a layer was skipped that does not repeat")
    return {name: statistics.median(times) for name, times in times_s.items()}


def _make_vae() -> AutoencoderKLWan:
    torch.manual_seed(1)
    vae: AutoencoderKLWan = AutoencoderKLWan(base_dim=BASE_DIM).eval()
    return vae


if __name__ == "__main__":
    main()
