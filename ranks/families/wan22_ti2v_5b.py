"""Wan2.2 TI2V-5B: the encoded image is the first latent frame, whose tokens have the timestep 0.

Shapes: B batch (always 1), C channels, T frames, H height, W width of latents.
"""

import torch
from torch import Tensor

from broker.wire.job import JobSpec
from ranks.families.family import ModelFamily
from ranks.model.vae import GivenClip
from ranks.sampling.published_numbers import MAGCACHE_TI2V_5B
from ranks.sampling.skip_lists import MagCacheNumbers


class FirstLatentFrame(ModelFamily):
    """Wan2.2 TI2V-5B. Its condition is the first latent frame, `[B, C, 1, H, W]`."""

    num_embedded_images = 0

    def clip(self, first: Tensor, last: Tensor | None, num_frames: int) -> GivenClip:
        return GivenClip(1, first)

    def condition(self, encoded: Tensor, *, has_last: bool) -> Tensor:
        return encoded

    def model_input(self, latents: Tensor, condition: Tensor) -> Tensor:
        return self.keep_given(latents, condition)

    def timesteps(self, timestep: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(timestep), timestep))

    def timestep_rows(self, num_frames: int, num_tokens: int) -> Tensor:
        rows = torch.ones(num_tokens, dtype=torch.int64)
        rows[: num_tokens // num_frames] = 0
        return rows

    def keep_given(self, latents: Tensor, condition: Tensor) -> Tensor:
        # The solver moves the first frame, too: nothing reads that.
        return torch.cat((condition.to(latents.device), latents[:, :, 1:]), dim=2)

    def magcache_numbers(self, spec: JobSpec) -> MagCacheNumbers:
        return MAGCACHE_TI2V_5B
