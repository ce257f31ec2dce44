"""Wan2.1 FLF2V: as I2V, with the last frame given, and both images embedded one after the other."""

from ranks.families.wan21_i2v import ImageToVideo


class FirstAndLastFrame(ImageToVideo):
    """Wan2.1 FLF2V. Its transformer adds a position to each token of the two images."""

    num_embedded_images = 2
