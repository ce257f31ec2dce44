"""What a group can run: its model, its layouts, and the memory that jobs take on it."""

import math

import msgspec

from broker.wire.job import JobSpec, SpecError
from broker.wire.job_memory import Demand, GroupMemory, needed_bytes
from broker.wire.model_profile import ModelProfile
from broker.wire.spec_check import check_spec

_LINEAR_TOKENS = 29_000


class GroupShape(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, cache_hash=True
):
    """Determines the layouts that a group can run, and its default layout."""

    world_size: int
    num_heads: int
    model: ModelProfile = ModelProfile()
    cfg_size: int | None = None
    """Default of `JobSpec.cfg_size`; None leaves the choice to `choose_layout`."""
    ulysses_size: int | None = None
    """Default of `JobSpec.ulysses_size`; None leaves the choice to `choose_layout`."""
    memory: GroupMemory | None = None
    """The memory that jobs take; None accepts every size."""


def choose_layout(spec: JobSpec, shape: GroupShape) -> tuple[int, int]:
    """Return `(cfg_size, ulysses_size)` for a job on a group.

    Sizes that the job names are kept or refused, never changed. Others are the group's defaults;
    without any, CFG is 2 where guidance is on, and as many ranks as possible share the sequence.

    Raises:
        SpecError: If the group cannot run the layout; the message shows the numbers.
    """
    if spec.model not in (None, shape.model.name):
        raise SpecError("model", f"model is {spec.model}; the group serves {shape.model.name}")
    check_spec(spec, shape.model)
    cfg_size, ulysses_size = layout_sizes(spec, shape)
    if shape.world_size % (cfg_size * ulysses_size):
        field = "ulysses_size" if spec.ulysses_size is not None else "cfg_size"
        raise SpecError(
            field,
            f"cfg_size {cfg_size} times ulysses_size {ulysses_size} is {cfg_size * ulysses_size}; "
            f"it must divide the group's {shape.world_size} ranks",
        )
    if shape.num_heads % ulysses_size:
        raise SpecError(
            "ulysses_size",
            f"ulysses_size is {ulysses_size}; it must divide the model's {shape.num_heads} "
            "attention heads",
        )
    if shape.memory is not None:
        _check_memory(spec, shape, shape.memory, cfg_size, ulysses_size)
    return cfg_size, ulysses_size


def can_run(spec: JobSpec, shape: GroupShape) -> bool:
    try:
        choose_layout(spec, shape)
    except SpecError:
        return False
    return True


def job_bytes(
    spec: JobSpec,
    memory: GroupMemory,
    cfg_size: int,
    ulysses_size: int,
    model: ModelProfile,
) -> int:
    return needed_bytes(memory, _demand(spec, model, memory, cfg_size, ulysses_size))


def step_work(spec: JobSpec, shape: GroupShape, step: int = 0) -> float:
    """Return the work of a denoising step for each rank, in an arbitrary unit.

    Each token of a rank attends to every token of the clip, and passes the linear layers, which in
    the 14B model cost as much as attention over some 29,000 tokens.
    """
    cfg_size, ulysses_size = layout_sizes(spec, shape)
    is_guided = spec.is_guided and step < spec.num_guided_steps
    if spec.is_guided and not is_guided:
        cfg_size, ulysses_size = unguided_sizes(cfg_size, ulysses_size, shape.num_heads)
    num_tokens = _num_tokens(spec, shape.model)
    num_branches = 1 if cfg_size == 2 or not is_guided else 2
    return num_branches * num_tokens / ulysses_size * (num_tokens + _LINEAR_TOKENS)


def layout_sizes(spec: JobSpec, shape: GroupShape) -> tuple[int, int]:
    """Return `(cfg_size, ulysses_size)` as `choose_layout` does, for a job that it has accepted."""
    cfg_size = spec.cfg_size
    if cfg_size is None:
        cfg_size = _default_cfg_size(spec, shape)
    ulysses_size = spec.ulysses_size
    if ulysses_size is None:
        ulysses_size = _default_ulysses_size(cfg_size, shape)
    return cfg_size, ulysses_size


def unguided_sizes(cfg_size: int, ulysses_size: int, num_heads: int) -> tuple[int, int]:
    """Return the sizes of a layout from the step on at which guidance ends.

    The ranks of both branches share the sequence then. If the heads do not divide among them, the
    layout stays, and both compute the same.
    """
    shared = cfg_size * ulysses_size
    return (cfg_size, ulysses_size) if num_heads % shared else (1, shared)


def _num_tokens(spec: JobSpec, model: ModelProfile) -> int:
    num_latent_frames = spec.num_model_frames // 4 + 1
    side_px = model.token_side_px
    return num_latent_frames * (spec.width_px // side_px) * (spec.height_px // side_px)


def _default_cfg_size(spec: JobSpec, shape: GroupShape) -> int:
    if not spec.is_guided:
        return 1
    wanted = shape.cfg_size or 2
    # A job may name ulysses_size alone (8 on 8 ranks): CFG then takes the remaining ranks.
    return wanted if shape.world_size % (wanted * (spec.ulysses_size or 1)) == 0 else 1


def _default_ulysses_size(cfg_size: int, shape: GroupShape) -> int:
    ranks = shape.world_size // cfg_size
    if shape.ulysses_size is not None and ranks % shape.ulysses_size == 0:
        return shape.ulysses_size
    return max(n for n in range(1, ranks + 1) if ranks % n == 0 and shape.num_heads % n == 0)


def _check_memory(
    spec: JobSpec, shape: GroupShape, memory: GroupMemory, cfg_size: int, ulysses_size: int
) -> None:
    needed = job_bytes(spec, memory, cfg_size, ulysses_size, shape.model)
    if needed > memory.capacity_bytes:
        kept = ", the attention cache" if spec.use_attentioncache else ""
        # Rounded apart, so that the two numbers are never the same.
        needed_gib = math.ceil(needed / 2**30 * 10) / 10
        usable_gib = math.floor(memory.capacity_bytes / 2**30 * 10) / 10
        split = ", or set dit_fsdp, t5_fsdp and vae_parallel" if shape.world_size > 1 else ""
        raise SpecError(
            "image_size",
            f"{spec.image_size} with {spec.num_frames} frames{kept} and ulysses_size "
            f"{ulysses_size} needs about {needed_gib:.1f} GiB of each rank's memory, of which "
            f"{usable_gib:.1f} GiB can be used; ask for a smaller or shorter video{split}",
        )


def _demand(
    spec: JobSpec, model: ModelProfile, memory: GroupMemory, cfg_size: int, ulysses_size: int
) -> Demand:
    def chosen(wanted: bool | None, default: bool) -> bool:
        return default if wanted is None else wanted

    is_split = chosen(spec.vae_parallel, memory.vae_parallel)
    num_rows, num_cols = memory.vae_grid if is_split else (1, 1)
    # A token is 2 x 2 latents.
    latent_px = model.token_side_px // 2
    patch_height_px = -(-spec.height_px // latent_px // num_rows) * latent_px
    patch_width_px = -(-spec.width_px // latent_px // num_cols) * latent_px
    return Demand(
        num_tokens=-(-_num_tokens(spec, model) // ulysses_size),
        num_pixels=patch_height_px * patch_width_px,
        num_branches=1 if cfg_size == 2 or not spec.is_guided else 2,
        keeps_attention=spec.use_attentioncache,
        # EasyCache keeps whole latents, which are small.
        keeps_residuals=spec.step_cache in ("magcache", "teacache"),
        dit_fsdp=chosen(spec.dit_fsdp, memory.dit_fsdp),
        t5_fsdp=chosen(spec.t5_fsdp, memory.t5_fsdp),
    )
