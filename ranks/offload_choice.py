"""Decides at the start of a group what is kept in host memory, by the option or by the memory."""

import logging

from broker.wire.model_profile import ModelProfile
from ranks.config import RankConfig
from ranks.device import Device
from ranks.model_files.components import ModelFiles
from ranks.model_files.fitting import GroupPlan, decide, describe
from ranks.model_files.memory_estimate import sizes_of
from ranks.offload import NOTHING, Offload, parse_offload

logger = logging.getLogger(__name__)


def decide_offload(
    config: RankConfig,
    files: ModelFiles,
    profile: ModelProfile,
    device: Device,
    capacity_bytes: int,
    host_bytes: int,
) -> Offload:
    """Return what is kept in host memory.

    Args:
        config: Of the group.
        files: The model.
        profile: The model's.
        device: Of this rank.
        capacity_bytes: Memory of the smallest device; every rank must give the same number.
        host_bytes: Host memory that is free for each rank; likewise.

    Raises:
        UnfitMemoryError: If the weights fit neither the devices nor the host.
    """
    offload = None if config.offload is None else parse_offload(config.offload)
    if offload is None and not device.has_own_memory:
        return NOTHING
    sizes = sizes_of(files, device.model_dtype.itemsize, device.vae_dtype.itemsize)
    plan = GroupPlan(
        world_size=config.world_size,
        num_heads=files.num_heads,
        capacity_bytes=capacity_bytes,
        host_capacity_bytes=host_bytes,
        cfg_size=config.cfg_size,
        ulysses_size=config.ulysses_size,
        dit_fsdp=config.dit_fsdp,
        t5_fsdp=config.t5_fsdp,
        vae_parallel=config.splits_vae,
    )
    fit = decide(plan, sizes, profile, offload)
    chosen = "chosen by the devices' memory" if offload is None else "as asked for"
    level = logging.INFO if fit.is_fit else logging.WARNING
    logger.log(level, "--offload %s, %s: %s", fit.offload.text, chosen, describe(profile, fit))
    return fit.offload
