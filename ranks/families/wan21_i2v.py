"""Wan2.1 I2V: mask and encoded clip are further channels of the transformer's input.

Shapes: B batch (always 1), C channels, T frames, H height, W width of latents.
"""

import torch
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.families.family import ModelFamily
from ranks.model.vae import FRAMES_PER_LATENT, GivenClip
from ranks.sampling.published_numbers import (
    MAGCACHE_I2V_480P,
    MAGCACHE_I2V_720P,
    TEACACHE_I2V_480P,
    TEACACHE_I2V_720P,
)
from ranks.sampling.skip_lists import MagCacheNumbers, TeaCacheNumbers

_PIXELS_BETWEEN = 600_000
"""Between 832 * 480 and 1280 * 720 pixels."""


class ImageToVideo(ModelFamily):
    """Wan2.1 I2V in 480P and 720P."""

    num_embedded_images = 1

    def clip(self, first: Tensor, last: Tensor | None, num_frames: int) -> GivenClip:
        return GivenClip(num_frames, first, last)

    def condition(self, encoded: Tensor, *, has_last: bool) -> Tensor:
        return torch.cat((given_frames_mask(encoded, has_last=has_last), encoded), dim=1)

    def model_input(self, latents: Tensor, condition: Tensor) -> Tensor:
        return torch.cat((latents, condition), dim=1)

    def magcache_numbers(self, spec: JobSpec) -> MagCacheNumbers | None:
        return MAGCACHE_I2V_480P if _is_480p(spec) else MAGCACHE_I2V_720P

    def teacache_numbers(self, spec: JobSpec) -> TeaCacheNumbers | None:
        return TEACACHE_I2V_480P if _is_480p(spec) else TEACACHE_I2V_720P


def _is_480p(spec: JobSpec) -> bool:
    # The two models have the same shapes: the size of the video tells for which one it is.
    return spec.width_px * spec.height_px < _PIXELS_BETWEEN


def given_frames_mask(latents: Tensor, *, has_last: bool) -> Tensor:
    """Return the mask `[B, 4, T, H, W]` of the frames that are given: one channel a video frame.

    The first latent frame stands for one video frame alone, in all four channels.

    Args:
        latents: The encoded clip, `[B, C, T, H, W]`; the mask has its dtype and device.
        has_last: Whether the last frame is given, too.

    Source:
        diffusers' `WanImageToVideoPipeline.prepare_latents`.
    """
    mask = latents.new_zeros(len(latents), FRAMES_PER_LATENT, *latents.shape[2:])
    mask[:, :, 0] = 1
    if has_last:
        mask[:, -1, -1] = 1
    return mask
