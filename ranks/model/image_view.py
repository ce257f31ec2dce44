"""What the image encoder sees of a picture, which need not be square: its views are.

The makers of Wan squeeze the whole picture. A folder of diffusers states its own way; the published
ones scale the shorter edge and cut the middle out.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ranks.model_files.components import ModelFiles

ImageProcessor = Callable[[Sequence[Image.Image]], Tensor]
"""Returns the views of RGB images, `[images, 3, side, side]`, float32."""


def load_image_processor(files: ModelFiles) -> ImageProcessor | None:
    """Return what prepares images for the image encoder; None if the model has no such encoder."""
    encoder = files.components.get("image_encoder")
    if encoder is None:
        return None
    if files.image_processor is None:
        return SqueezedImages(encoder.config["image_size"])
    return _StatedProcessor(CLIPImageProcessorPil.from_pretrained(files.image_processor))


class SqueezedImages:
    """Squeezes whole images to a square.

    Args:
        side: Of the square, in pixels.

    Source:
        Wan2.1 `wan/modules/clip.py`, `CLIPModel.visual`.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        self._mean, self._std = (
            torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.cat([self._view(image) for image in images])

    def _view(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image).astype(np.float32) / 255.0)
        size = (self._side, self._side)
        # Without anti-aliasing, as there.
        squeezed = F.interpolate(pixels.permute(2, 0, 1).unsqueeze(0), size=size, mode="bicubic")
        return (squeezed - self._mean) / self._std


class _StatedProcessor:
    """Prepares images as a folder states it."""

    def __init__(self, processor: CLIPImageProcessorPil) -> None:
        self._processor = processor

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        views: Tensor = self._processor(images=list(images), return_tensors="pt").pixel_values
        return views
