"""Memory of the devices: what jobs leave, what a lack of it does, and which jobs are let in."""

from itertools import takewhile

import msgspec
import pytest

from broker.wire.group_shape import can_run
from broker.wire.job import JobSpec
from tests.npu.test_defects import SPEC
from tests.ranks.rank_group import RankGroup, Result


@pytest.fixture(scope="module")
def held_bytes(one_rank: RankGroup) -> int:
    """What a rank holds after a job."""
    return held_by(one_rank.run(SPEC))


def held_by(result: Result) -> int:
    (report,) = result.reports
    return report.held_bytes


def test_each_job_leaves_the_same_bytes(one_rank: RankGroup, held_bytes: int) -> None:
    assert held_by(one_rank.run(SPEC)) == held_bytes


@pytest.mark.parametrize("number", [1, 300, 1500])
def test_a_job_without_enough_memory_fails_alone(
    one_rank: RankGroup, held_bytes: int, number: int
) -> None:
    failed = one_rank.run(SPEC, patch=f"tests.npu.seeds:out_of_memory:{number}")
    (outcome,) = failed.outcomes
    assert outcome.startswith("OutOfMemoryError('NPU out of memory")
    following = one_rank.run(SPEC)
    assert following.outcomes == {"done"}
    assert held_by(following) == held_bytes


@pytest.mark.parametrize("group", ["one_rank", "two_ranks"])
def test_the_largest_job_that_is_let_in_fits(group: str, request: pytest.FixtureRequest) -> None:
    """The estimate is close: it wastes little, and no rank ever runs out of memory."""
    ranks: RankGroup = request.getfixturevalue(group)
    ranks.run(SPEC)
    result = ranks.run(largest_admitted(ranks))
    assert result.outcomes == {"done"}
    assert ranks.shape.memory is not None
    peak_bytes = max(report.peak_bytes for report in result.reports)
    assert 0.6 < peak_bytes / ranks.shape.memory.capacity_bytes <= 1.0


def largest_admitted(ranks: RankGroup) -> JobSpec:
    # Few frames and steps: the peak is the VAE's, which decodes four frames at a time.
    squares = (
        msgspec.structs.replace(
            SPEC, image_size=f"{side}*{side}", infer_steps=2, guidance_scale=1.0
        )
        for side in range(64, 1281, 16)
    )
    model = msgspec.structs.replace(ranks.shape.model, min_steps=1, min_frames=1)
    shape = msgspec.structs.replace(ranks.shape, model=model)
    *_, largest = takewhile(lambda spec: can_run(spec, shape), squares)
    return largest
