"""The element-wise kernels of an NPU: the plain formulas, in fewer bytes."""

import json

from tests.bench.kernel_bytes import npu_block_bytes
from tests.npu.host import Host

ROUNDING = {"float32": 1e-5, "bfloat16": 0.03}
"""Sums in another order; in bfloat16, torch's own norm also rounds before it multiplies."""


def test_torch_npu_s_kernels_compute_the_plain_formulas(host: Host) -> None:
    process = host.start("tests.npu.elementwise_main:compare")
    errors: dict[str, float] = json.loads(process.communicate())
    assert len(errors) == 2 * 2 * 11
    for case, error in errors.items():
        assert error <= next(most for dtype, most in ROUNDING.items() if dtype in case), case


def test_an_npu_takes_them_and_without_an_operator_the_plain_ones(host: Host) -> None:
    chosen = json.loads(host.start("tests.npu.elementwise_main:choose").communicate())
    assert chosen == ["vendor", "plain", True]


def test_with_them_a_guided_prediction_is_as_near_to_the_official_formulas(host: Host) -> None:
    """0.9 %, as with the plain ones."""
    process = host.start("tests.npu.elementwise_main:predict")
    assert json.loads(process.communicate()) < 0.01


def test_they_move_less_than_half_of_the_bytes_of_the_plain_ones() -> None:
    assert 0 < npu_block_bytes("vendor") < 0.5 * npu_block_bytes("plain")
