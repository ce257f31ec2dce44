"""The colours of latents: a linear map to RGB, fitted to the VAE that is loaded.

Too coarse for a video, and good enough to see what it will be of: one multiplication a pixel of a
latent, where the VAE would take as long as a denoising step.
"""

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from ranks.model.vae import FRAMES_PER_LATENT, encode_clip

Colours = NDArray[np.float32]
"""`[C + 1, 3]`: what each channel of a latent adds to red, green and blue, and the constant."""

_SEED = 20_250_226
_SIDE_PX = 128
_GRIDS = (2, 4, 8, 16)
_CLIPS_PER_GRID = 2


def fit_colours(vae: AutoencoderKLWan) -> Colours:
    """Return the map that fits best, by least squares, how the VAE encodes clips we make.

    Shapes: B clips, C channels, T frames, H height, W width.
    """
    clips = _sample_clips()
    latents = encode_clip(vae, clips.to(vae.device, vae.dtype)).float().cpu()
    scale = vae.config.scale_factor_spatial
    # A latent stands for the first frame alone, and then for four.
    first = avg_pool3d(clips[:, :, :1], (1, scale, scale))
    later = avg_pool3d(clips[:, :, 1:], (FRAMES_PER_LATENT, scale, scale))
    wanted = _by_pixel(torch.cat((first, later), dim=2))
    given = _by_pixel(latents)
    given = torch.cat((given, torch.ones(len(given), 1)), dim=1)
    fitted: Colours = torch.linalg.lstsq(given, wanted).solution.numpy()
    return fitted


def paint(latents: NDArray[np.float32], colours: Colours) -> Image.Image:
    """Return the picture of one latent frame `[C, H, W]`, a pixel a latent."""
    rgb = np.tensordot(latents, colours[:-1], axes=(0, 0)) + colours[-1]
    return Image.fromarray(((rgb.clip(-1.0, 1.0) + 1.0) * 127.5).round().astype(np.uint8))


def _sample_clips() -> Tensor:
    """Return clips `[B, 3, T, H, W]` from -1 to 1, coarse and fine, that blend two patterns."""
    generator = torch.Generator().manual_seed(_SEED)
    num_frames = FRAMES_PER_LATENT + 1
    size = (num_frames, _SIDE_PX, _SIDE_PX)
    clips = [
        interpolate(
            torch.randn((_CLIPS_PER_GRID, 3, 2, grid, grid), generator=generator),
            size,
            mode="trilinear",
            align_corners=True,
        )
        for grid in _GRIDS
    ]
    return torch.cat(clips).tanh()


def _by_pixel(maps: Tensor) -> Tensor:
    """Return `[B, C, T, H, W]` as `[B * T * H * W, C]`."""
    return maps.movedim(1, -1).flatten(0, -2)
