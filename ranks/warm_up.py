"""Small clips before the first job: they compile the kernels, and find faults."""

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from ranks.families.family import ModelFamily
from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.model.vae import decode_chunks
from ranks.model_files.architecture import NUM_TEXT_TOKENS
from ranks.parallel.ulysses import SequenceGroup, Shard

_SHAPES: tuple[LatentShape, ...] = ((1, 32, 32), (1, 32, 48))
"""Two different numbers of tokens: the second shows the compiler that the number varies."""


def warm_up(
    family: ModelFamily,
    transformer: ShardTransformer,
    device: torch.device,
    num_image_tokens: int,
) -> None:
    """Run small clips. With sharded weights, every rank must take part.

    Args:
        family: The model's.
        transformer: Is run once for each of the clips.
        device: Device of this rank.
        num_image_tokens: Tokens of one image, as in every job: some attention kernels refuse other
            numbers of keys.
    """
    config = transformer.model.config
    num_images = family.num_embedded_images
    prompt_embeds = torch.zeros(1, NUM_TEXT_TOKENS, config.text_dim, device=device)
    image_embeds = None
    if num_images:
        image_embeds = torch.zeros(num_images, num_image_tokens, config.image_dim, device=device)
    condition = transformer.condition(prompt_embeds, image_embeds)
    timesteps = family.timesteps(torch.zeros((), dtype=torch.int64, device=device))
    for shape in _SHAPES:
        num_tokens = transformer.num_tokens(shape)
        cos, sin = transformer.rope_tables(shape, device)
        rows = family.timestep_rows(shape[0], num_tokens)
        shard = Shard(
            sequence=SequenceGroup(None, [num_tokens], 0),
            rope_cos=cos,
            rope_sin=sin,
            branch=0,
            step=0,
            cache=None,
            timestep_rows=None if rows is None else rows.to(device),
        )
        latents = torch.zeros(1, config.in_channels, *shape, dtype=transformer.dtype, device=device)
        transformer(latents, timesteps, [(condition, shard)])


def warm_up_vae(vae: AutoencoderKLWan) -> None:
    """Decode a small picture, which compiles the kernels that encoding has, too."""
    latents = torch.zeros(1, vae.config.z_dim, 1, 8, 8, device=vae.device)
    for _ in decode_chunks(vae, latents):
        pass
