"""The models of a folder, and what is made of a job before the first step.

Texts and images are prepared exactly as diffusers' `WanImageToVideoPipeline` does it.
Shapes: B batch (always 1), N tokens, C channels, T frames, H height, W width.
"""

import html
import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import ftfy
import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image, ImageOps
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import CLIPVisionModel, T5TokenizerFast, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from broker.wire.protocol import ErrorCode
from ranks.device import Device
from ranks.errors import JobError
from ranks.model.transformer import ShardTransformer
from ranks.model.vae import FRAMES_PER_LATENT
from ranks.model.weights import load_text_encoder, load_transformer, load_vae

logger = logging.getLogger(__name__)

NUM_TEXT_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Models:
    """Every component of a model folder, on the device of this rank."""

    tokenizer: T5TokenizerFast
    text_encoder: UMT5EncoderModel
    image_processor: CLIPImageProcessorPil
    image_encoder: CLIPVisionModel
    transformer: ShardTransformer
    vae: AutoencoderKLWan


def load_models(folder: Path, device: Device, mesh: DeviceMesh | None) -> Models:
    """Load a folder in the layout of diffusers.

    Args:
        folder: Has been checked by its file names.
        device: Of this rank.
        mesh: The ranks that share the weights; None keeps them whole.
    """
    transformers_logging.disable_progress_bar()
    target = device.torch_device
    image_encoder = CLIPVisionModel.from_pretrained(folder / "image_encoder", dtype=torch.float32)
    return Models(
        tokenizer=T5TokenizerFast.from_pretrained(folder / "tokenizer"),
        text_encoder=load_text_encoder(folder / "text_encoder", device, mesh),
        image_processor=CLIPImageProcessorPil.from_pretrained(folder / "image_processor"),
        image_encoder=image_encoder.to(target),
        transformer=load_transformer(folder / "transformer", device, mesh),
        vae=load_vae(folder / "vae", device.vae_dtype, target),
    )


class PromptEncoder:
    """Encodes prompts and keeps the latest ones; the negative prompt is mostly the same.

    Args:
        models: The tokenizer and the text encoder are used.
        num_kept: How many prompts are kept.
    """

    def __init__(self, models: Models, num_kept: int = 32) -> None:
        self._tokenizer = models.tokenizer
        self._encoder = models.text_encoder
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._num_kept = num_kept
        self.num_hits = 0

    def encode(self, prompt: str) -> Tensor:
        """Return the embedding `[B, 512, C]` of a prompt, zero after its last token."""
        text = clean_text(prompt)
        if text in self._kept:
            self.num_hits += 1
            self._kept.move_to_end(text)
            return self._kept[text]
        self._kept[text] = self._encode(text)
        if len(self._kept) > self._num_kept:
            self._kept.popitem(last=False)
        return self._kept[text]

    def forget(self) -> None:
        """Drop what is kept.

        Done after a failure, which may have struck some ranks only: ranks that keep different
        prompts would no longer encode the same ones, and with sharded weights they have to.
        """
        self._kept.clear()

    def _encode(self, text: str) -> Tensor:
        tokens = self._tokenizer(
            [text],
            padding="max_length",
            max_length=NUM_TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(self._encoder.device)
        embedded: Tensor = self._encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        embedded = embedded * tokens.attention_mask.unsqueeze(-1).to(embedded.dtype)
        return embedded


def clean_text(text: str) -> str:
    """Return a prompt as the model was trained on it: mended, unescaped, single blanks."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip()


def open_image(path: Path, width_px: int, height_px: int) -> Image.Image:
    """Return a stored image, scaled to cover a size and cropped at its centre.

    Raises:
        JobError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        logger.warning("image %s cannot be read: %s", path.name, error)
        raise JobError(
            ErrorCode.IMAGE_INVALID, "the stored image cannot be read any more; submit it again"
        ) from error
    return ImageOps.fit(rgb, (width_px, height_px), method=Image.Resampling.LANCZOS)


def embed_image(models: Models, image: Image.Image) -> Tensor:
    """Return what the image encoder makes of an image, `[B, N, C]`: its last layer but one."""
    pixels = models.image_processor(images=image, return_tensors="pt").pixel_values
    encoder = models.image_encoder
    output = encoder(pixels.to(encoder.device, encoder.dtype), output_hidden_states=True)
    embeds: Tensor = output.hidden_states[-2]
    return embeds


def image_tensor(image: Image.Image) -> Tensor:
    """Return an image as `[B, 3, H, W]`, from -1 to 1, float32."""
    pixels = torch.from_numpy(np.array(image).astype(np.float32) / 255.0)
    return 2.0 * pixels.permute(2, 0, 1).unsqueeze(0) - 1.0


def first_frame_mask(latents: Tensor) -> Tensor:
    """Return the mask `[B, 4, T, H, W]` that tells the model which frame is given.

    Args:
        latents: The encoded first frame, `[B, C, T, H, W]`.
    """
    mask = latents.new_zeros(len(latents), FRAMES_PER_LATENT, *latents.shape[2:])
    mask[:, :, 0] = 1
    return mask


def draw_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the noise of a seed, float32 on the CPU: the same for every device and layout."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
