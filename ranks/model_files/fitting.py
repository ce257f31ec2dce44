"""Which jobs of a model fit a group, and what must be kept in host memory for that."""

import msgspec
from msgspec import structs

from broker.wire.group_shape import GroupShape, choose_layout, job_bytes
from broker.wire.job import JobSpec
from broker.wire.job_memory import GroupMemory
from broker.wire.model_profile import ModelProfile
from ranks.errors import UnfitMemoryError
from ranks.model_files.memory_estimate import ModelSizes, group_memory, host_bytes
from ranks.model_files.model_report import JobMemory
from ranks.model_files.weight_memory import NUM_RANKS
from ranks.offload import NOTHING, Offload, all_choices

_GB = 1e9


class GroupPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A group of ranks, as far as its memory goes."""

    world_size: int
    num_heads: int
    capacity_bytes: int
    """Of the smallest device."""
    host_capacity_bytes: int | None = None
    """Host memory of each rank; None if it is not known."""
    cfg_size: int | None = None
    ulysses_size: int | None = None
    dit_fsdp: bool = False
    t5_fsdp: bool = False
    vae_parallel: bool = False

    def memory(self, sizes: ModelSizes, offload: Offload) -> GroupMemory:
        return group_memory(
            sizes,
            self.world_size,
            self.capacity_bytes,
            offload,
            dit_fsdp=self.dit_fsdp,
            t5_fsdp=self.t5_fsdp,
            vae_parallel=self.vae_parallel,
        )

    def shape(self, model: ModelProfile) -> GroupShape:
        return GroupShape(
            world_size=self.world_size,
            num_heads=self.num_heads,
            model=model,
            cfg_size=self.cfg_size,
            ulysses_size=self.ulysses_size,
        )


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What a job takes of each device, and what a device has."""

    offload: Offload
    needed_bytes: int
    usable_bytes: int
    host_bytes: int
    """What is kept in host memory for each rank."""
    has_host: bool
    """Whether the host has that much."""

    @property
    def is_fit(self) -> bool:
        return self.has_host and self.needed_bytes <= self.usable_bytes


def usual_job(profile: ModelProfile, image_size: str | None = None) -> JobSpec:
    """Return the job that names nothing but, perhaps, its size."""
    return JobSpec(
        prompt="only the size counts",
        image_size=image_size or profile.image_size,
        num_frames=profile.num_frames,
        infer_steps=profile.infer_steps,
        guidance_scale=profile.guidance_scale,
        sample_solver=profile.sample_solver,
        sample_shift=profile.sample_shift,
    )


def fit_of(
    plan: GroupPlan, sizes: ModelSizes, profile: ModelProfile, spec: JobSpec, offload: Offload
) -> Fit:
    cfg_size, ulysses_size = choose_layout(spec, plan.shape(profile))
    memory = plan.memory(sizes, offload)
    on_host = host_bytes(sizes, offload)
    return Fit(
        offload=offload,
        needed_bytes=job_bytes(spec, memory, cfg_size, ulysses_size, profile),
        usable_bytes=memory.capacity_bytes,
        host_bytes=on_host,
        has_host=plan.host_capacity_bytes is None or on_host <= plan.host_capacity_bytes,
    )


def needed_by_ranks(
    sizes: ModelSizes, profile: ModelProfile, num_heads: int
) -> dict[int, JobMemory]:
    """Return what the usual job needs of each rank, by their number."""
    spec = usual_job(profile)
    needed = {}
    for world_size in NUM_RANKS:
        plan = GroupPlan(world_size=world_size, num_heads=num_heads, capacity_bytes=0)
        sharded = structs.replace(plan, dit_fsdp=True, t5_fsdp=True, vae_parallel=True)
        needed[world_size] = JobMemory(
            plain_bytes=fit_of(plan, sizes, profile, spec, NOTHING).needed_bytes,
            sharded_bytes=fit_of(sharded, sizes, profile, spec, NOTHING).needed_bytes,
        )
    return needed


def choose_offload(plan: GroupPlan, sizes: ModelSizes, profile: ModelProfile, spec: JobSpec) -> Fit:
    """Return the first choice with which a job fits.

    If there is none, the one that the host has room for and that takes least of the devices, if
    possible with room for the weights.
    """
    fits = []
    for offload in all_choices(sizes.num_blocks, plan.world_size):
        fit = fit_of(plan, sizes, profile, spec, offload)
        if fit.is_fit:
            return fit
        fits.append(fit)
    # Where another stage than the steps takes most, several take the same: the last of them.
    return min(
        (fit for fit in reversed(fits) if fit.has_host),
        key=lambda fit: (
            _least_bytes(plan, sizes, fit.offload) > fit.usable_bytes,
            fit.needed_bytes,
        ),
    )


def decide(
    plan: GroupPlan, sizes: ModelSizes, profile: ModelProfile, offload: Offload | None
) -> Fit:
    """Return how the usual job fits with what the operator has chosen, or with the best choice.

    Raises:
        UnfitMemoryError: If the weights fit neither the devices nor the host.
    """
    spec = usual_job(profile)
    if offload is None:
        fit = choose_offload(plan, sizes, profile, spec)
    else:
        fit = fit_of(plan, sizes, profile, spec, offload)
    if not fit.has_host:
        raise UnfitMemoryError(
            f"--offload {fit.offload.text} keeps {fit.host_bytes / _GB:.1f} GB of weights in host "
            f"memory for each rank, which has {(plan.host_capacity_bytes or 0) / _GB:.1f} GB free; "
            "keep less there, or free memory"
        )
    least = _least_bytes(plan, sizes, fit.offload)
    if least > fit.usable_bytes:
        raise UnfitMemoryError(
            f"with --offload {fit.offload.text} the weights take {least / _GB:.1f} GB of each "
            f"device, of which {fit.usable_bytes / _GB:.1f} GB can be used; keep more in host "
            "memory (--offload), share the weights (--dit-fsdp, --nproc), or take larger devices"
        )
    return fit


def describe(profile: ModelProfile, fit: Fit) -> str:
    text = (
        f"{profile.image_size} with {profile.num_frames} frames takes "
        f"{fit.needed_bytes / _GB:.1f} of {fit.usable_bytes / _GB:.1f} GB of a device and "
        f"{fit.host_bytes / _GB:.1f} GB of host memory"
    )
    return text if fit.is_fit else f"{text}; only smaller or shorter videos fit"


def _least_bytes(plan: GroupPlan, sizes: ModelSizes, offload: Offload) -> int:
    """Return what the weights alone take of each device, at their largest stage."""
    memory = plan.memory(sizes, offload)
    # A job may set `dit_fsdp`, whatever the group's default is.
    in_steps = memory.steps_bytes + memory.dit_blocks_bytes
    return memory.weights_bytes + max(memory.encoder_bytes, in_steps)
