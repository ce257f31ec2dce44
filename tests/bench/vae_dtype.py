"""The VAE in bfloat16 against float32, in PSNR: `python -m tests.bench.vae_dtype`.

A picture and its grey frames are encoded, and the clip is decoded, by the demo's VAE, which is made
by hand, and by VAEs with random weights: one of the real depth and a sixth of the width, and one
with 48 channels of latents. It takes a minute on an idle core.
"""

import math
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from ranks.demo.build import make_demo_model
from ranks.demo.patch_vae_weights import make_patch_vae
from ranks.model.conditioning import image_tensor, open_image
from ranks.model.vae import GivenClip, decode_chunks, encode_chunks, finish_encoding
from ranks.model.vae_bfloat16 import install_bfloat16
from ranks.model.vae_norm import install_norm
from ranks.model.weights import load_vae
from ranks.model_files.diffusers_folder import read_component

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "sample.jpg"
WIDTH_PX, HEIGHT_PX = 96, 64
NUM_FRAMES = 5


@torch.inference_mode()
def main() -> None:
    image = image_tensor(open_image(PICTURE, WIDTH_PX, HEIGHT_PX))
    print(f"{'':26} {'encode':>9} {'decode':>9} {'both':>9}   plain bfloat16: both")
    for name, exact in vaes():
        plain = nn.Module.to(deepcopy(exact), torch.bfloat16)
        fast = deepcopy(plain)
        install_bfloat16(fast, is_compiled=False)
        latents = encode(exact, image)
        frames = decode(exact, latents)
        found = encode(fast, image)
        figures = [
            psnr_db(found, latents),
            psnr_db(decode(fast, latents), frames),
            psnr_db(decode(fast, found), frames),
            psnr_db(decode(plain, encode(plain, image)), frames),
        ]
        print(f"{name:26}", " ".join(f"{figure:6.1f} dB" for figure in figures))


def vaes() -> Iterator[tuple[str, AutoencoderKLWan]]:
    """Yield VAEs in float32."""
    with tempfile.TemporaryDirectory() as name:
        make_demo_model(Path(name) / "demo")
        component = read_component(Path(name) / "demo" / "vae")
        yield "demo", load_vae(component, torch.float32, torch.device("cpu"))
    torch.manual_seed(1)
    for name, vae in (
        ("random, 16 channels", AutoencoderKLWan(base_dim=16)),
        ("random, 48 channels", make_patch_vae()),
    ):
        install_norm(vae)
        yield name, vae.eval()


def encode(vae: AutoencoderKLWan, image: Tensor) -> Tensor:
    clip = GivenClip(NUM_FRAMES, image.to(vae.dtype))
    return finish_encoding(vae, list(encode_chunks(vae, clip)))


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    return torch.cat([frames.float().clamp(-1, 1) for frames in decode_chunks(vae, latents)], dim=2)


def psnr_db(found: Tensor, expected: Tensor) -> float:
    """Return the PSNR; the peak is the span of what is expected."""
    span = (expected.max() - expected.min()).item()
    return 10 * math.log10(span**2 / (found - expected).square().mean().item())


if __name__ == "__main__":
    main()
