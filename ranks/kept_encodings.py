"""The encodings of the latest images, for the next job with the same picture."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT_BYTES = 128_000_000
"""Of host memory, on each rank: six clips of 81 frames at 1280*720."""


@dataclass(frozen=True, kw_only=True)
class ImageKey:
    """All that an encoding by one model depends on."""

    image: str
    """Name of the first image in the store: the hash of its pixels."""
    last_image: str | None
    width_px: int
    height_px: int
    num_frames: int
    vae_parallel: bool | None
    """A split VAE may round differently."""
    vae_dtype: str


@dataclass(frozen=True, kw_only=True)
class ImageEncoding:
    """What the encoders make of a job's images; the same on every rank."""

    image_embeds: Tensor | None
    """`[images, N, C]`; None if the model sees no embedded image."""
    latents: Tensor
    """The encoded clip, `[1, C, T, H, W]`, float32."""

    @property
    def num_bytes(self) -> int:
        return self.latents.nbytes + (0 if self.image_embeds is None else self.image_embeds.nbytes)

    def on(self, device: torch.device | str) -> "ImageEncoding":
        image_embeds = self.image_embeds
        return ImageEncoding(
            image_embeds=None if image_embeds is None else image_embeds.to(device),
            latents=self.latents.to(device),
        )


class KeptEncodings:
    """Keeps the encodings that were used last, in host memory.

    All ranks must find and keep the same keys in the same order: one that finds an encoding does
    not take part in making it. After a failure, which may have hit only some ranks, they must
    `clear`.

    Args:
        num_bytes: Limit of all encodings together.
    """

    def __init__(self, num_bytes: int = KEPT_BYTES) -> None:
        self._limit = num_bytes
        self._kept: OrderedDict[ImageKey, ImageEncoding] = OrderedDict()

    def find(self, key: ImageKey) -> ImageEncoding | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: ImageKey, encoding: ImageEncoding) -> None:
        self._kept[key] = encoding.on("cpu")
        while sum(kept.num_bytes for kept in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()
