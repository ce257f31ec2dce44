"""Mistakes that no test on the CPU can see, put into the product's code one at a time."""

import pytest
from torch import Tensor

from broker.wire.job import JobSpec
from tests.ranks.rank_group import RankGroup, Result

SPEC = JobSpec(
    prompt="A small boat drifts over a calm bay",
    image_size="64*64",
    num_frames=8,
    infer_steps=4,
    seed=7,
)
WAITS = 2
"""In a step of rank 0: for the check of the latents, and for what a preview shows."""
MIXED = "found at least two devices, npu:0 and cpu!"


def run(group: RankGroup, defect: str | None = None) -> Result:
    return group.run(SPEC, patch=defect and f"tests.npu.seeds:defect:{defect}")


def host_waits(result: Result) -> set[int]:
    return {count for report in result.reports for count in report.host_waits}


def has_nan(frames: Tensor | None) -> bool:
    assert frames is not None
    return bool(frames.isnan().any())


def test_the_product_has_none_of_these_defects(one_rank: RankGroup) -> None:
    result = run(one_rank)
    assert result.outcomes == {"done"}
    assert host_waits(result) == {WAITS}
    assert not has_nan(result.frames)


@pytest.mark.parametrize(
    ("defect", "refusal"),
    [
        ("tables left on the CPU", MIXED),
        ("latents not moved", MIXED),
        ("VAE statistics on the CPU", MIXED),
        ("double timesteps", "Double is not supported on the NPU"),
    ],
)
def test_what_an_npu_cannot_compute_fails_the_job(
    one_rank: RankGroup, defect: str, refusal: str
) -> None:
    (outcome,) = run(one_rank, defect).outcomes
    assert refusal in outcome


def test_a_wait_in_a_block_is_counted(one_rank: RankGroup) -> None:
    result = run(one_rank, "a wait in a block")
    assert result.outcomes == {"done"}
    assert min(host_waits(result)) > WAITS


def test_an_uninitialised_mask_spoils_the_video(one_rank: RankGroup) -> None:
    result = run(one_rank, "an uninitialised mask")
    assert result.outcomes != {"done"} or has_nan(result.frames)
