"""The VAE chunk by chunk: a run can end between two chunks, and frames are written early.

These are the layers and chunks of `AutoencoderKLWan.encode` and `.decode`, so the results are
identical. Shapes: B batch, C channels, T frames, H height, W width, in pixels or in latents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    patchify,
    unpatchify,
)
from torch import Tensor

from ranks.model.chunk_encoder import ChunkEncoder, empty_cache

FRAMES_PER_LATENT = 4


class Split(Protocol):
    """Cuts feature maps into one patch per rank."""

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's patch of a whole map `[..., H, W]`."""

    def gather(self, patch: Tensor) -> Tensor:
        """Return the whole map `[..., H, W]` on every rank, given each rank's patch."""

    def smallest(self, number: int) -> int:
        """Return the smallest of all ranks' numbers; every rank must call it."""


def num_latent_frames(num_frames: int) -> int:
    """Return how many latent frames hold `num_frames` video frames.

    The VAE encodes the first frame alone and packs each following four into one.

    Raises:
        ValueError: If `num_frames` is not of the form 4n + 1.

    Source:
        Wan2.1 `wan/image2video.py`, `WanI2V.generate`.
    """
    if num_frames % FRAMES_PER_LATENT != 1:
        raise ValueError(f"num_frames is {num_frames}; expected 4n + 1")
    return num_frames // FRAMES_PER_LATENT + 1


@dataclass(frozen=True)
class GivenClip:
    """A clip that is grey but for its first frame, and its last one if that is given.

    Args:
        num_frames: Frames of the clip, of the form 4n + 1.
        first: The whole first frame, `[B, 3, H, W]`, from -1 to 1, in the dtype of the VAE.
        last: The last frame, likewise.
    """

    num_frames: int
    first: Tensor
    last: Tensor | None = None

    @property
    def num_chunks(self) -> int:
        return num_latent_frames(self.num_frames)

    def chunks(self) -> Iterator[tuple[Tensor, int]]:
        """Yield frames `[B, 3, T, H, W]`, one or four, and how often they follow each other."""
        first = self.first.unsqueeze(2)
        grey = torch.zeros_like(first).expand(-1, -1, FRAMES_PER_LATENT, -1, -1)
        yield first, 1
        num_left = self.num_chunks - 1
        if num_left and self.last is not None:
            if num_left > 1:
                yield grey, num_left - 1
            yield torch.cat((grey[:, :, 1:], self.last.unsqueeze(2)), dim=2), 1
        elif num_left:
            yield grey, num_left


def encode_chunks(
    vae: AutoencoderKLWan, clip: GivenClip, split: Split | None = None
) -> Iterator[Tensor]:
    """Encode a clip.

    Args:
        vae: The VAE.
        clip: The clip, whole on every rank.
        split: Split of the work over ranks; None if this rank works alone.

    Yields:
        Whole encoder outputs `[B, 2C, 1, H, W]`, one latent frame each.
    """
    encoder = ChunkEncoder(vae, int if split is None else split.smallest)
    for frames, num_times in clip.chunks():
        chunk = _patchified(vae, frames)
        if split is None:
            yield from encoder.encode(chunk, num_times)
        else:
            yield from map(split.gather, encoder.encode(split.take(chunk), num_times))


def encode_clip(vae: AutoencoderKLWan, clip: Tensor) -> Tensor:
    """Return the normalised latents `[B, C, T, H, W]`, float32, of a clip of 4n + 1 frames.

    Args:
        vae: The VAE.
        clip: Frames `[B, 3, T, H, W]` from -1 to 1, in the dtype of the VAE.
    """
    cache = empty_cache(vae.encoder)
    chunks = [clip[:, :, :1], *clip[:, :, 1:].split(FRAMES_PER_LATENT, dim=2)]
    patches = (_patchified(vae, chunk) for chunk in chunks)
    encoded = [vae.encoder(chunk, feat_cache=cache, feat_idx=[0]) for chunk in patches]
    return finish_encoding(vae, encoded)


def finish_encoding(vae: AutoencoderKLWan, chunks: list[Tensor]) -> Tensor:
    """Return normalised latents `[B, C, T, H, W]`, float32, given all encoder outputs."""
    moments = vae.quant_conv(torch.cat(chunks, dim=2))
    latents = moments.chunk(2, dim=1)[0].float()  # the mean; the other half is the log variance
    mean, inverse_std = _statistics(vae, latents)
    normalised: Tensor = (latents - mean) * inverse_std
    return normalised


def decode_chunks(
    vae: AutoencoderKLWan, latents: Tensor, split: Split | None = None
) -> Iterator[Tensor]:
    """Decode normalised latents.

    Args:
        vae: The VAE.
        latents: Whole latents `[B, C, T, H, W]`.
        split: Split of the work over ranks; None if this rank works alone.

    Yields:
        Whole frames `[B, 3, T, H, W]` in the dtype of the VAE: one frame, then four at a time.
        They still have to be clamped to -1 to 1, which hides infinity.
    """
    cache = empty_cache(vae.decoder)
    latents = latents.to(vae.dtype)
    mean, inverse_std = _statistics(vae, latents)
    features = vae.post_quant_conv(latents / inverse_std + mean)
    for index in range(latents.shape[2]):
        chunk = features[:, :, index : index + 1]
        patch = chunk if split is None else split.take(chunk)
        decoded = vae.decoder(patch, feat_cache=cache, feat_idx=[0], first_chunk=index == 0)
        whole = decoded if split is None else split.gather(decoded)
        size = vae.config.patch_size
        yield whole if size is None else unpatchify(whole, size)


def _patchified(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    """Return frames as the encoder takes them: with the pixels of a patch as channels, if so."""
    size = vae.config.patch_size
    patches: Tensor = frames if size is None else patchify(frames, size)
    return patches


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and inverse standard deviation of the latents, each `[1, C, 1, 1, 1]`."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    inverse_std = 1.0 / std.to(like.device, like.dtype)
    return mean.to(like.device, like.dtype), inverse_std
