"""Wan2.1 FLF2V: as I2V, with the last frame given, and both images embedded one after the other."""

from broker.wire.job import JobSpec
from ranks.families.wan21_i2v import ImageToVideo


class FirstAndLastFrame(ImageToVideo):
    """Wan2.1 FLF2V. Its transformer adds a position to each token of the two images."""

    num_embedded_images = 2

    def magcache_numbers(self, spec: JobSpec) -> None:
        return None

    def teacache_numbers(self, spec: JobSpec) -> None:
        return None
