"""Wan2.2 I2V-A14B: as Wan2.1 I2V, with a transformer for high noise and one for low noise."""

from torch import Tensor

from broker.wire.job import JobSpec
from ranks.families.wan21_i2v import ImageToVideo
from ranks.sampling.published_numbers import MAGCACHE_A14B
from ranks.sampling.skip_lists import MagCacheNumbers
from ranks.sampling.solver import NUM_TRAIN_TIMESTEPS


class TwoExperts(ImageToVideo):
    """Wan2.2 I2V-A14B. It sees images through the VAE alone.

    Args:
        boundary_ratio: The second transformer computes the timesteps below this, over 1000.
    """

    num_embedded_images = 0

    def __init__(self, boundary_ratio: float) -> None:
        self._boundary_timestep = boundary_ratio * NUM_TRAIN_TIMESTEPS

    def expert(self, timestep: Tensor) -> int:
        return int(timestep.item() < self._boundary_timestep)

    def guidance_scale(self, spec: JobSpec, expert: int) -> float:
        if expert == 0 or spec.guidance_scale_2 is None:
            return spec.guidance_scale
        return spec.guidance_scale_2

    def magcache_numbers(self, spec: JobSpec) -> MagCacheNumbers:
        return MAGCACHE_A14B

    def teacache_numbers(self, spec: JobSpec) -> None:
        return None
