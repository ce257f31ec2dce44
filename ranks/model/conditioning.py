"""The components of a model folder, and the model inputs that are computed from a job.

Prompts and images are prepared exactly as in diffusers' `WanImageToVideoPipeline`.
Shapes: B batch (always 1), N tokens, C channels, T frames, H height, W width.
"""

import html
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ftfy
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image, ImageOps
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import CLIPVisionModel, T5TokenizerFast, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from broker.wire.errors import ErrorCode
from ranks.device import Device
from ranks.errors import JobError, ModelFolderError
from ranks.model.hosted_models import HostedModels
from ranks.model.hosted_weights import HostedModel
from ranks.model.image_view import ImageProcessor, load_image_processor
from ranks.model.transformer import ShardTransformer
from ranks.model.weights import (
    check_fit,
    load_image_encoder,
    load_served_vae,
    load_text_encoder,
    load_transformers,
)
from ranks.model_files.architecture import NUM_TEXT_TOKENS
from ranks.model_files.components import ModelFiles
from ranks.offload import NOTHING, Offload

logger = logging.getLogger(__name__)

_TOKEN_GRAIN = 128
"""Tokens to whose multiples prompts are padded for the encoder, which masks the rest. It computes
the bits of all 512 tokens, in float32 on a CPU; of 16 or 64, it does not."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """All components of a model folder, on the device of this rank."""

    tokenizer: T5TokenizerFast
    text_encoder: UMT5EncoderModel
    image_processor: ImageProcessor | None
    image_encoder: CLIPVisionModel | None
    """None if the model sees the image through the VAE alone; so is the processor."""
    transformers: tuple[ShardTransformer, ...]
    """In the order of the steps that they compute."""
    vae: AutoencoderKLWan
    device: torch.device
    """Where all of them compute."""
    hosted: HostedModels
    """What of them is in host memory between its uses."""


def load_models(
    files: ModelFiles, device: Device, mesh: DeviceMesh | None, offload: Offload = NOTHING
) -> Models:
    """Load a model.

    Args:
        files: The model's components on disk.
        device: Device of this rank.
        mesh: The ranks that shard the weights; None keeps the weights whole.
        offload: What is kept in host memory; of several ranks, at most the encoders of each.

    Raises:
        ModelFolderError: If the weights do not fit the model.
    """
    transformers_logging.disable_progress_bar()
    target = device.torch_device
    encoder_target = torch.device("cpu") if offload.encoders else target
    check_fit(files)
    components = files.components
    tokenizer = T5TokenizerFast.from_pretrained(files.tokenizer)
    text_encoder = load_text_encoder(
        components["text_encoder"],
        device,
        None if offload.encoders else mesh,
        on_host=offload.encoders,
    )
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise ModelFolderError(
            f"{files.tokenizer} has {len(tokenizer)} tokens, the text encoder only "
            f"{text_encoder.config.vocab_size}; expected the tokenizer of the same model"
        )
    image_component = components.get("image_encoder")
    image_encoder = (
        None if image_component is None else load_image_encoder(image_component, encoder_target)
    )
    transformers, streamed = load_transformers(files, device, mesh, offload)
    encoders = filter(None, [text_encoder, image_encoder] if offload.encoders else [])
    hosted = [HostedModel(encoder, target) for encoder in encoders]
    return Models(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        image_processor=load_image_processor(files),
        image_encoder=image_encoder,
        transformers=transformers,
        vae=load_served_vae(components["vae"], device),
        device=target,
        hosted=HostedModels(encoders=tuple(hosted), transformers=streamed),
    )


class PromptEncoder:
    """Encodes prompts and keeps the latest embeddings; most jobs share a negative prompt.

    Args:
        models: Its tokenizer and text encoder are used.
        num_kept: Number of embeddings to keep.
    """

    def __init__(self, models: Models, num_kept: int = 32) -> None:
        self._tokenizer = models.tokenizer
        self._encoder = models.text_encoder
        self._device = models.device
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._num_kept = num_kept

    def encode(self, prompt: str) -> Tensor:
        """Return the embedding `[B, 512, C]` of a prompt, zero after its last token.

        The dtype is that of the text encoder. With sharded weights, every rank must take part.
        """
        text = clean_text(prompt)
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        self._kept[text] = self._encode(text)
        if len(self._kept) > self._num_kept:
            self._kept.popitem(last=False)
        return self._kept[text]

    def num_tokens(self, prompt: str) -> int:
        """Return how many tokens a prompt has; `encode` reads the first 512."""
        return len(self._tokenizer(clean_text(prompt), verbose=False).input_ids)

    def clear(self) -> None:
        """Drop the kept embeddings.

        Needed after a failure, which may have hit only some ranks. Ranks that keep different
        embeddings would encode different prompts, and with sharded weights they must encode alike.
        """
        self._kept.clear()

    def _encode(self, text: str) -> Tensor:
        tokens = self._tokenizer(
            [text],
            padding=True,
            pad_to_multiple_of=_TOKEN_GRAIN,
            max_length=NUM_TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        embedded: Tensor = self._encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        embedded = embedded * tokens.attention_mask.unsqueeze(-1).to(embedded.dtype)
        return F.pad(embedded, (0, 0, 0, NUM_TEXT_TOKENS - embedded.shape[1]))


def clean_text(text: str) -> str:
    """Fix the encoding of a prompt, unescape HTML and collapse blanks.

    Source:
        diffusers `pipelines/wan/pipeline_wan_i2v.py`, `prompt_clean`.
    """
    unescaped = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", unescaped).strip()


def open_image(path: Path, width_px: int, height_px: int) -> Image.Image:
    """Return a stored image, scaled to cover the size and cropped around its centre.

    Raises:
        JobError: If the image cannot be read.
    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        logger.warning("image %s cannot be read: %s", path.name, error)
        raise JobError(
            ErrorCode.IMAGE_INVALID, "the stored image can no longer be read; submit it again"
        ) from error
    return ImageOps.fit(rgb, (width_px, height_px), method=Image.Resampling.LANCZOS)


def embed_images(models: Models, images: Sequence[Image.Image]) -> Tensor | None:
    """Return the embeddings `[images, N, C]`: the image encoder's last but one layer.

    None if there are no images to embed.

    Source:
        diffusers' `WanImageToVideoPipeline.encode_image`.
    """
    if not images:
        return None
    processor, encoder = models.image_processor, models.image_encoder
    assert processor is not None, "a family embeds images only with an image encoder"
    assert encoder is not None, "so does its folder"
    output = encoder(processor(images).to(models.device, encoder.dtype), output_hidden_states=True)
    image_embeds: Tensor = output.hidden_states[-2]
    return image_embeds


def image_tensor(image: Image.Image) -> Tensor:
    """Return an image as `[B, 3, H, W]`, from -1 to 1, float32."""
    pixels = torch.from_numpy(np.array(image).astype(np.float32) / 255.0)
    return 2.0 * pixels.permute(2, 0, 1).unsqueeze(0) - 1.0


def draw_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the noise for a seed, float32, on the CPU: the same for every device and layout."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
