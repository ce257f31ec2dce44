"""One pass of a whole transformer on one rank's own tokens, without an engine."""

import torch
from torch import Tensor

from ranks.model.transformer import LatentShape, ShardTransformer
from ranks.parallel.ulysses import SequenceGroup, Shard

SHAPE: LatentShape = (2, 8, 10)


def velocity(transformer: ShardTransformer) -> Tensor:
    """Return the patches that it predicts for fixed random latents and a random condition."""
    config = transformer.model.config
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(1, 12, config.text_dim, generator=generator)
    image = None
    if config.image_dim is not None:
        image = torch.randn(1, 17, config.image_dim, generator=generator)
    latents = torch.randn(1, config.in_channels, *SHAPE, generator=generator)
    num_tokens = transformer.num_tokens(SHAPE)
    cos, sin = transformer.rope_tables(SHAPE, torch.device("cpu"))
    shard = Shard(
        sequence=SequenceGroup(None, [num_tokens], 0),
        rope_cos=cos,
        rope_sin=sin,
        branch=0,
        step=0,
        cache=None,
    )
    condition = transformer.condition(prompt, image)
    (patches,) = transformer(latents, torch.tensor([500]), [(condition, shard)])
    assert isinstance(patches, Tensor)
    return patches
