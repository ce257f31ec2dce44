"""Decides at the start of a group what is kept in host memory, by the option or by the memory."""

import logging

from broker.wire.model_profile import ModelProfile
from ranks.config import RankConfig
from ranks.device import Device
from ranks.errors import UnfitMemoryError
from ranks.model_files.components import ModelFiles
from ranks.model_files.fitting import Fit, GroupPlan, choose_offload, fit_of, least_bytes, usual_job
from ranks.model_files.memory_estimate import ModelSizes, sizes_of
from ranks.offload import NOTHING, parse_offload

logger = logging.getLogger(__name__)

_GB = 1e9


def decide_offload(
    config: RankConfig,
    files: ModelFiles,
    profile: ModelProfile,
    device: Device,
    capacity_bytes: int,
    host_bytes: int,
) -> Fit:
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
        vae_parallel=config.vae_parallel,
    )
    spec = usual_job(profile)
    if config.offload is not None:
        fit = fit_of(plan, sizes, profile, spec, parse_offload(config.offload))
    elif device.has_own_memory:
        fit = choose_offload(plan, sizes, profile, spec)
    else:
        return fit_of(plan, sizes, profile, spec, NOTHING)
    _check(plan, sizes, fit)
    _tell(profile, fit, is_chosen=config.offload is None)
    return fit


def _check(plan: GroupPlan, sizes: ModelSizes, fit: Fit) -> None:
    if not fit.has_host:
        raise UnfitMemoryError(
            f"--offload {fit.offload.text} keeps {fit.host_bytes / _GB:.1f} GB of weights in host "
            f"memory for each rank, which has {(plan.host_capacity_bytes or 0) / _GB:.1f} GB free; "
            "keep less there, or free memory"
        )
    least = least_bytes(plan, sizes, fit.offload)
    if least > fit.usable_bytes:
        raise UnfitMemoryError(
            f"with --offload {fit.offload.text} the weights take {least / _GB:.1f} GB of each "
            f"device, of which {fit.usable_bytes / _GB:.1f} GB can be used; keep more in host "
            "memory (--offload), share the weights (--dit-fsdp, --nproc), or take larger devices"
        )


def _tell(profile: ModelProfile, fit: Fit, *, is_chosen: bool) -> None:
    how = "chosen by the devices' memory" if is_chosen else "as asked for"
    text = (
        f"offload {fit.offload.text}, {how}: {profile.image_size} with {profile.num_frames} frames "
        f"takes {fit.needed_bytes / _GB:.1f} of {fit.usable_bytes / _GB:.1f} GB of a device, and "
        f"{fit.host_bytes / _GB:.1f} GB of host memory"
    )
    if fit.is_fit:
        logger.info("%s", text)
    else:
        logger.warning("%s; only smaller or shorter videos fit", text)
