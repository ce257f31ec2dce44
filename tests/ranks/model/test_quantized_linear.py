"""8-bit linears in one process: the formula, its error, and what a whole transformer loses."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ranks.model.kernels import quantize_rows
from ranks.model.quantized_linear import (
    Multiply,
    QuantizedLinear,
    multiply_fp8,
    multiply_int8,
)

FP8, INT8 = torch.float8_e4m3fn, torch.int8
MULTIPLY: dict[torch.dtype, Multiply] = {
    FP8: partial(multiply_fp8, quantize=quantize_rows),
    INT8: partial(multiply_int8, quantize=quantize_rows),
}
# The largest error of a number in its row, in parts of the row's largest: E4M3 has four binary
# digits, and 8-bit whole numbers 127 steps on each side.
ROUNDING = {FP8: 2**-4, INT8: 0.5 / 127}

both = pytest.mark.parametrize("dtype", [FP8, INT8], ids=["fp8", "int8"])


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_of(plain: nn.Linear, dtype: torch.dtype) -> QuantizedLinear:
    with torch.device("meta"):
        on_meta = nn.Linear(plain.in_features, plain.out_features)
    made = QuantizedLinear(on_meta, dtype, MULTIPLY[dtype]).to_empty(device="cpu")
    numbers, scale = quantize_rows(plain.weight.detach(), dtype)
    made.weight.data.copy_(numbers)
    made.weight_scale.data.copy_(scale)
    assert made.bias is not None
    made.bias.data.copy_(plain.bias)
    return made


@both
def test_rows_are_rounded_to_their_own_largest_number(dtype: torch.dtype) -> None:
    rows = randn(20, 144) * torch.logspace(-6, 4, 20).unsqueeze(1)
    numbers, scale = quantize_rows(rows, dtype)
    assert numbers.dtype == dtype
    assert scale.dtype == torch.float32
    assert scale.shape == (20, 1)
    largest = rows.abs().amax(dim=1, keepdim=True)
    error = (numbers.float() * scale - rows).abs()
    assert bool((error <= 1.001 * ROUNDING[dtype] * largest).all())
    assert torch.allclose(
        numbers.float().abs().amax(dim=1), torch.tensor(448.0 if dtype == FP8 else 127.0)
    )


@both
def test_a_row_of_zeros_stays_zero(dtype: torch.dtype) -> None:
    numbers, scale = quantize_rows(torch.zeros(2, 16), dtype)
    assert torch.equal(numbers.float() * scale, torch.zeros(2, 16))


@both
@pytest.mark.parametrize("num_tokens", [1, 16, 33])
def test_a_layer_computes_the_sum_of_products_times_both_factors(
    dtype: torch.dtype, num_tokens: int
) -> None:
    made = linear_of(nn.Linear(144, 192), dtype)
    tokens = randn(2, num_tokens, 144)
    numbers, scale = quantize_rows(tokens.flatten(0, 1), dtype)
    sums = numbers.double() @ made.weight.double().t()  # exact: products of small numbers
    factors = scale.double() * made.weight_scale.double().t()
    expected = (sums * factors + made.bias.double()).unflatten(0, (2, num_tokens))
    with torch.no_grad():
        found = made(tokens)
    assert found.shape == (2, num_tokens, 192)
    assert torch.allclose(found.double(), expected, rtol=2e-6, atol=2e-6)


def test_int8_has_the_bits_of_its_formula() -> None:
    made = linear_of(nn.Linear(144, 192), INT8)
    tokens = randn(40, 144)
    numbers, scale = quantize_rows(tokens, INT8)
    sums = (numbers.int() @ made.weight.int().t()).float()
    with torch.no_grad():
        assert torch.equal(made(tokens), sums * scale * made.weight_scale.t() + made.bias)


def test_fp8_has_the_bits_of_its_formula_where_every_sum_is_exact() -> None:
    made = linear_of(nn.Linear(144, 192), FP8)
    whole = torch.randint(-8, 9, (192, 144), generator=torch.Generator().manual_seed(2)).float()
    whole[:, 0] = 448.0  # so that the factors are 1
    numbers, scale = quantize_rows(whole, FP8)
    assert torch.equal(scale, torch.ones(192, 1))
    made.weight.data.copy_(numbers)
    made.weight_scale.data.copy_(scale)
    assert made.bias is not None
    made.bias.data.zero_()
    with torch.no_grad():
        assert torch.equal(made(whole), whole @ whole.t())


@both
def test_a_layer_is_near_the_plain_one(dtype: torch.dtype) -> None:
    plain = nn.Linear(144, 192)
    nn.init.normal_(plain.weight)
    tokens = randn(64, 144)
    with torch.no_grad():
        expected, found = plain(tokens), linear_of(plain, dtype)(tokens)
    relative = float((found - expected).norm() / expected.norm())
    assert relative < (0.045 if dtype == FP8 else 0.012)
    assert relative > 1e-3  # it does round


@both
def test_many_tokens_are_multiplied_in_parts_with_the_same_result(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = linear_of(nn.Linear(144, 192), dtype)
    tokens = randn(1, 100, 144)
    with torch.no_grad():
        whole = made(tokens)
        monkeypatch.setattr("ranks.model.quantized_linear.TOKENS_AT_ONCE", 32)
        parts = made(tokens)
    assert torch.allclose(parts, whole, rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_does_not_become_one(dtype: torch.dtype, bad: float) -> None:
    """Else a run that has gone wrong would end as a success."""
    made = linear_of(nn.Linear(144, 192), dtype)
    tokens = randn(20, 144)
    tokens[3, 5] = bad
    with torch.no_grad():
        found = made(tokens)
    assert not bool(found[3].isfinite().any())
    assert bool(found[:3].isfinite().all())
