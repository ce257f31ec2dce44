"""The memory that a job takes on each rank, as sums of figures that the ranks measure.

Pure arithmetic, so that a job that does not fit is refused at submit.
"""

import msgspec

_RESERVED_SHARE = 10
"""A tenth more is reserved than allocated, except for weights."""


class GroupMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The memory of each rank of a group, and the figures that job sizes are multiplied with."""

    capacity_bytes: int
    """Memory of the smallest device that weights and jobs may take."""
    weights_bytes: int
    """Always held: shards of sharded weights, and all weights that are never sharded; without what
    is on the host between its uses."""
    dit_gathered_bytes: int
    """Added if a job keeps the transformer gathered (`dit_fsdp` false)."""
    dit_blocks_bytes: int
    """Added otherwise: the blocks that are gathered at the same time."""
    t5_gathered_bytes: int
    """Added while a prompt is encoded, if a job gathers the text encoder (`t5_fsdp` false)."""
    encoder_bytes: int = 0
    """Added while prompts and images are encoded: encoders that are on the host otherwise."""
    steps_bytes: int = 0
    """Added during the steps: blocks of the transformer that are on the host otherwise."""
    token_bytes: int
    """Activations of a step for one token of the rank's shard."""
    cache_token_bytes: int
    """Cached attention of one token of the rank's shard, for one guidance branch."""
    residual_token_bytes: int = 0
    """What a step cache keeps of one token of the rank's shard, for one guidance branch."""
    condition_bytes: int
    """Keys and values of text and image, for one guidance branch."""
    pixel_bytes: int
    """The VAE's activations for one pixel of the rank's patch."""
    vae_grid: tuple[int, int]
    """Rows and columns of patches of a split VAE."""
    dit_fsdp: bool = False
    t5_fsdp: bool = False
    vae_parallel: bool = False
    """The group's defaults."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """The job parameters that determine memory use (largest shard)."""

    num_tokens: int
    num_pixels: int
    num_branches: int
    """Guidance branches computed by one rank."""
    keeps_attention: bool
    keeps_residuals: bool = False
    dit_fsdp: bool
    t5_fsdp: bool


def needed_bytes(memory: GroupMemory, demand: Demand) -> int:
    """Return the peak memory of a job on each rank, weights included."""
    weights = memory.weights_bytes
    weights += 0 if demand.dit_fsdp else memory.dit_gathered_bytes
    per_token = memory.token_bytes
    if demand.keeps_attention:
        per_token += memory.cache_token_bytes * demand.num_branches
    if demand.keeps_residuals:
        per_token += memory.residual_token_bytes * demand.num_branches
    denoising = demand.num_tokens * per_token + demand.num_branches * memory.condition_bytes
    denoising += memory.dit_blocks_bytes if demand.dit_fsdp else 0
    encoding = memory.encoder_bytes + (0 if demand.t5_fsdp else memory.t5_gathered_bytes)
    # A stage frees its memory before the next one.
    return weights + max(
        encoding,
        memory.steps_bytes + _reserved(denoising),
        _reserved(demand.num_pixels * memory.pixel_bytes),
    )


def _reserved(activations: int) -> int:
    # An allocator reserves more than tensors take.
    return activations + activations // _RESERVED_SHARE
