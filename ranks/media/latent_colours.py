"""A linear map from latents to RGB colours, fitted to the loaded VAE.

Too coarse for a video, but good enough for a preview: it takes one multiplication per latent pixel,
while the VAE would take as long as a denoising step.
"""

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from ranks.errors import ModelFolderError
from ranks.model.vae import FRAMES_PER_LATENT, encode_clip

Colours = NDArray[np.float32]
"""`[C + 1, 3]`: the weight of each latent channel in red, green and blue, and then the constant."""

_SEED = 20_250_226
_SIDE_PX = 128
_GRIDS = (2, 4, 8, 16)
_CLIPS_PER_GRID = 2


def fit_colours(vae: AutoencoderKLWan) -> Colours:
    """Fit the map by least squares to the VAE's latents of synthetic clips.

    Shapes: B clips, C channels, T frames, H height, W width.

    Raises:
        ModelFolderError: If the VAE computes NaN or infinity.
    """
    clips = _sample_clips()
    latents = encode_clip(vae, clips.to(vae.device, vae.dtype)).float().cpu()
    if not latents.isfinite().all():
        raise ModelFolderError(
            "the VAE encodes a test picture to NaN or infinity; its weights are damaged: download "
            "the model again"
        )
    scale = vae.config.scale_factor_spatial
    # The first latent frame holds one video frame, each following one holds four.
    first = avg_pool3d(clips[:, :, :1], (1, scale, scale))
    later = avg_pool3d(clips[:, :, 1:], (FRAMES_PER_LATENT, scale, scale))
    targets = _by_pixel(torch.cat((first, later), dim=2))
    inputs = _by_pixel(latents)
    inputs = torch.cat((inputs, torch.ones(len(inputs), 1)), dim=1)
    colours: Colours = torch.linalg.lstsq(inputs, targets).solution.numpy()
    return colours


def paint(latents: NDArray[np.float32], colours: Colours) -> Image.Image:
    """Return a picture of one latent frame `[C, H, W]`, one pixel per latent pixel."""
    rgb = np.tensordot(latents, colours[:-1], axes=(0, 0)) + colours[-1]
    return Image.fromarray(((rgb.clip(-1.0, 1.0) + 1.0) * 127.5).round().astype(np.uint8))


def _sample_clips() -> Tensor:
    """Return clips `[B, 3, T, H, W]` from -1 to 1: coarse and fine patterns, blending over time."""
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
    """Reshape `[B, C, T, H, W]` to `[B * T * H * W, C]`."""
    return maps.movedim(1, -1).flatten(0, -2)
