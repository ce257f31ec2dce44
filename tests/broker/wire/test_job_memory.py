"""The memory that a job needs on each rank, and the refusal of jobs that do not fit."""

import re

import msgspec
import pytest

from broker.wire.group_shape import GroupShape, choose_layout, job_bytes
from broker.wire.job import JobSpec, SpecError
from broker.wire.job_memory import Demand, GroupMemory, needed_bytes
from broker.wire.model_profile import ModelProfile

GIB = 2**30

MEMORY = GroupMemory(
    capacity_bytes=1000,
    weights_bytes=100,
    dit_gathered_bytes=400,
    dit_blocks_bytes=40,
    t5_gathered_bytes=200,
    token_bytes=3,
    cache_token_bytes=5,
    residual_token_bytes=4,
    condition_bytes=7,
    pixel_bytes=2,
    vae_grid=(4, 2),
)
DEMAND = Demand(
    num_tokens=20,
    num_pixels=10,
    num_branches=2,
    keeps_attention=False,
    dit_fsdp=True,
    t5_fsdp=True,
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 100 + (40 + 20 * 3 + 2 * 7) * 11 // 10),
        ({"num_branches": 1}, 100 + (40 + 20 * 3 + 7) * 11 // 10),
        ({"keeps_attention": True}, 100 + (40 + 20 * (3 + 2 * 5) + 2 * 7) * 11 // 10),
        ({"keeps_residuals": True}, 100 + (40 + 20 * (3 + 2 * 4) + 2 * 7) * 11 // 10),
        ({"dit_fsdp": False}, 100 + 400 + (20 * 3 + 2 * 7) * 11 // 10),
        ({"t5_fsdp": False}, 100 + 200),
        ({"num_pixels": 300}, 100 + 300 * 2 * 11 // 10),
    ],
)
def test_the_largest_stage_determines_the_needed_memory(
    changes: dict[str, object], expected: int
) -> None:
    assert needed_bytes(MEMORY, msgspec.structs.replace(DEMAND, **changes)) == expected


MEMORY_OF_14B = GroupMemory(
    capacity_bytes=0,
    weights_bytes=8_971_927_116,
    dit_gathered_bytes=32_307_077_120,
    dit_blocks_bytes=1_615_353_856,
    t5_gathered_bytes=11_361_820_672,
    token_bytes=184_320,
    cache_token_bytes=409_600,
    condition_bytes=629_964_800,
    pixel_bytes=11_520,
    vae_grid=(4, 2),
)
"""The 14B model in bfloat16 on 8 ranks, as measured by `ranks.model.model_memory`."""


def shape_of(
    capacity_bytes: int, *, t5_fsdp: bool = False, vae_parallel: bool = False
) -> GroupShape:
    memory = msgspec.structs.replace(
        MEMORY_OF_14B, capacity_bytes=capacity_bytes, t5_fsdp=t5_fsdp, vae_parallel=vae_parallel
    )
    return GroupShape(world_size=8, num_heads=40, memory=memory)


def spec_of(**fields: object) -> JobSpec:
    return msgspec.convert({"prompt": "a cat on a roof"} | fields, JobSpec)


def test_a_job_that_fits_gets_its_layout() -> None:
    assert choose_layout(spec_of(), shape_of(61 * GIB)) == (2, 4)


def test_a_job_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(SpecError) as refusal:
        choose_layout(spec_of(num_frames=121), shape_of(40 * GIB))
    assert refusal.value.field == "image_size"
    assert refusal.value.message == (
        "1280*720 with 121 frames and ulysses_size 4 needs about 49.4 GiB of each rank's memory, "
        "of which 40.0 GiB can be used; ask for a smaller or shorter video, or set dit_fsdp, "
        "t5_fsdp and vae_parallel"
    )


def test_a_narrow_refusal_shows_two_numbers_and_suggests_no_sharding_for_one_rank() -> None:
    needed = job_bytes(spec_of(), MEMORY_OF_14B, 1, 1, ModelProfile())
    memory = msgspec.structs.replace(MEMORY_OF_14B, capacity_bytes=needed - 1)
    with pytest.raises(SpecError) as refusal:
        choose_layout(spec_of(), GroupShape(world_size=1, num_heads=40, memory=memory))
    numbers = re.findall(r"[0-9.]+ GiB", refusal.value.message)
    assert len(set(numbers)) == 2
    assert "fsdp" not in refusal.value.message


def test_settings_that_a_job_leaves_open_come_from_the_group() -> None:
    shape = shape_of(46 * GIB, t5_fsdp=True, vae_parallel=True)
    assert choose_layout(spec_of(), shape) == (2, 4)
    with pytest.raises(SpecError, match=r"49\.4 GiB"):
        choose_layout(spec_of(vae_parallel=False), shape)


def test_a_rank_that_computes_both_branches_caches_the_attention_of_both() -> None:
    shape = shape_of(51 * GIB, vae_parallel=True)
    fits = {"use_attentioncache": True, "cfg_size": 2}
    assert choose_layout(spec_of(**fits), shape) == (2, 4)
    with pytest.raises(SpecError, match="the attention cache"):
        choose_layout(spec_of(**fits | {"cfg_size": 1, "ulysses_size": 4}), shape)


def test_a_group_that_does_not_report_its_memory_accepts_every_size() -> None:
    assert choose_layout(spec_of(num_frames=121), GroupShape(world_size=8, num_heads=40)) == (2, 4)


@pytest.mark.parametrize(
    ("cache", "num_residuals"), [("easycache", 0), ("magcache", 1), ("teacache", 1)]
)
def test_a_step_cache_that_keeps_residuals_takes_their_memory(
    cache: str, num_residuals: int
) -> None:
    memory = msgspec.structs.replace(MEMORY_OF_14B, residual_token_bytes=10_240)
    split = {"vae_parallel": True, "t5_fsdp": True}
    plain, cached = (
        job_bytes(spec, memory, 2, 4, ModelProfile())
        for spec in (spec_of(**split), spec_of(**split, step_cache=cache))
    )
    num_tokens = 21 * 45 * 80 // 4
    assert cached - plain == pytest.approx(num_residuals * num_tokens * 10_240 * 1.1, abs=1)


def test_a_job_whose_guidance_never_begins_is_not_guided() -> None:
    assert choose_layout(spec_of(guidance_end=0.0), shape_of(61 * GIB)) == (1, 8)
    assert choose_layout(spec_of(guidance_end=0.1), shape_of(61 * GIB)) == (2, 4)
