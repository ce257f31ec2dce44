"""The layouts on NPUs: in float32 the frames of the stock pipeline, in the real dtypes no NaN."""

from functools import cache

import msgspec
import pytest
from torch import Tensor

from broker.wire.job import JobSpec
from tests.npu.conftest import SPEC
from tests.ranks.rank_group import RankGroup, Result
from tests.ranks.test_combinations import COVERING, Expect

TOLERANCE = 2e-4
"""Twice that of the tests on the CPU: the largest difference seen is 1.03e-4, after six steps."""

# As in `COVERING`: a layout, and whether weights are sharded, the VAE is split, attention is kept.
ON_TWO = {
    (1, 1): (True, True, False),
    (1, 2): (True, False, True),
    (2, 1): (False, True, True),
}
Layout = tuple[int, int]
Switches = tuple[bool, bool, bool]


@pytest.fixture(scope="module")
def expect(stock_frames: Tensor, rank_on_cpu: RankGroup) -> Expect:
    """Return the expected frames: the stock pipeline's, or with the cache those of one rank."""

    @cache
    def frames(is_cached: bool) -> Tensor:
        if not is_cached:
            return stock_frames
        made = rank_on_cpu.run(msgspec.structs.replace(SPEC, use_attentioncache=True)).frames
        assert made is not None
        return made

    return frames


def spec_of(layout: Layout, switches: Switches) -> JobSpec:
    is_sharded, is_split, is_cached = switches
    return msgspec.structs.replace(
        SPEC,
        cfg_size=layout[0],
        ulysses_size=layout[1],
        dit_fsdp=is_sharded,
        t5_fsdp=is_sharded,
        vae_parallel=is_split,
        use_attentioncache=is_cached,
    )


def assert_same_video(result: Result, spec: JobSpec, expect: Expect) -> None:
    assert result.outcomes == {"done"}
    assert result.frames is not None
    difference = result.frames - expect(spec.use_attentioncache)
    assert float(difference.abs().max()) <= TOLERANCE


def test_the_cache_changes_the_video(expect: Expect) -> None:
    assert float((expect(True) - expect(False)).abs().max()) > TOLERANCE


@pytest.mark.parametrize(("layout", "switches"), ON_TWO.items())
def test_two_ranks_make_the_video_of_the_stock_pipeline(
    two_exact_ranks: RankGroup, expect: Expect, layout: Layout, switches: Switches
) -> None:
    spec = spec_of(layout, switches)
    assert_same_video(two_exact_ranks.run(spec), spec, expect)


@pytest.mark.parametrize(("layout", "switches"), COVERING.items())
def test_eight_ranks_make_the_video_of_the_stock_pipeline(
    eight_exact_ranks: RankGroup, expect: Expect, layout: Layout, switches: Switches
) -> None:
    spec = spec_of(layout, switches)
    assert_same_video(eight_exact_ranks.run(spec), spec, expect)


@pytest.mark.parametrize(("layout", "switches"), ON_TWO.items())
def test_in_the_real_dtypes_no_frame_has_a_nan_and_only_rank_0_waits_twice_in_a_step(
    two_ranks: RankGroup, layout: Layout, switches: Switches
) -> None:
    result = two_ranks.run(spec_of(layout, switches))
    assert result.outcomes == {"done"}
    assert result.frames is not None
    assert not result.frames.isnan().any()
    for rank, report in enumerate(result.reports):
        # For the check of the latents; rank 0 also copies what a preview shows.
        assert report.host_waits == [2 if rank == 0 else 1] * SPEC.infer_steps
        assert "refused" not in report.counts
