"""What a job needs of the memory of each rank: sums over figures that the ranks have measured.

Pure arithmetic, so that a job that cannot fit is refused at submit and not in the ranks.
"""

import msgspec


class GroupMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each rank of a group can hold, and what jobs cost it."""

    capacity_bytes: int
    """What weights and jobs may take of the smallest device."""
    weights_bytes: int
    """Held all the time: slices of sharded weights, and the weights that are never sharded."""
    dit_gathered_bytes: int
    """Added where a job keeps the transformer gathered (`dit_fsdp` false)."""
    dit_blocks_bytes: int
    """Added where it does not: the blocks that are gathered at one time."""
    t5_gathered_bytes: int
    """Added while a prompt is encoded, where a job gathers the text encoder (`t5_fsdp` false)."""
    token_bytes: int
    """A step's activations for one token of the rank's shard."""
    cache_token_bytes: int
    """The attention kept for one token of the rank's shard, for one guidance branch."""
    condition_bytes: int
    """Keys and values of text and image, for one guidance branch."""
    pixel_bytes: int
    """The VAE's activations for one pixel of the rank's patch."""
    vae_grid: tuple[int, int]
    """Rows and columns of patches of a split VAE."""
    dit_fsdp: bool = False
    t5_fsdp: bool = False
    vae_parallel: bool = False
    """What the group does where a job leaves it open."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What of a job decides its memory; of ranks with uneven shares, the largest counts."""

    num_tokens: int
    num_pixels: int
    num_branches: int
    """Guidance branches that one rank computes."""
    keeps_attention: bool
    dit_fsdp: bool
    t5_fsdp: bool


def needed_bytes(memory: GroupMemory, demand: Demand) -> int:
    """Return what a job takes of each rank, weights included, at its worst moment."""
    weights = memory.weights_bytes
    weights += 0 if demand.dit_fsdp else memory.dit_gathered_bytes
    per_token = memory.token_bytes
    if demand.keeps_attention:
        per_token += memory.cache_token_bytes * demand.num_branches
    denoising = demand.num_tokens * per_token + demand.num_branches * memory.condition_bytes
    denoising += memory.dit_blocks_bytes if demand.dit_fsdp else 0
    encoding = 0 if demand.t5_fsdp else memory.t5_gathered_bytes
    # What a stage needs is free again before the next one.
    return weights + max(encoding, denoising, demand.num_pixels * memory.pixel_bytes)
