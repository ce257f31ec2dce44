"""8-bit linears on the stand-in NPU: int8, by kernels of torch_npu."""

from tests.npu.test_defects import SPEC
from tests.ranks.quantized_videos import psnr_db
from tests.ranks.rank_group import RankGroup

LEAST_DB = 15.0
"""Of a video against the one with plain weights, both in bfloat16."""


def test_an_npu_multiplies_in_int8_and_falls_back_nowhere(
    int8_rank: RankGroup, one_rank: RankGroup
) -> None:
    found, plain = int8_rank.run(SPEC), one_rank.run(SPEC)
    assert found.outcomes == plain.outcomes == {"done"}
    assert int8_rank.shape.model.quantization == "int8"
    assert found.frames is not None
    assert plain.frames is not None
    assert not found.frames.isnan().any()
    assert LEAST_DB < psnr_db(found.frames, plain.frames) < 60.0
    (report,), (of_plain,) = found.reports, plain.reports
    assert "refused" not in report.counts
    assert report.host_waits == of_plain.host_waits
    assert report.held_bytes < of_plain.held_bytes
