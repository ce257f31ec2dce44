"""A linear layer whose weights are 8-bit numbers, with a factor for each row.

Tokens are rounded to 8 bits, too, each with its own factor, as the layer multiplies them. The sums
are exact in int8, and in float32 in fp8; their factors are applied at the end.

Shapes: L tokens, I channels of the input, O channels of the output.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from broker.wire.model_profile import EightBit
from ranks.model_files.quantization import TOKENS_AT_ONCE

DTYPES: dict[torch.dtype, EightBit] = {torch.float8_e4m3fn: "fp8", torch.int8: "int8"}
"""The dtypes of weights, and what operators call them."""

SCALE = "weight_scale"

_LEAST_ROWS = 32
"""CUDA multiplies no fewer rows of int8 than 17."""

Quantize8 = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor]]


class Multiply(Protocol):
    """The product of tokens `[L, I]` with weights `[O, I]`, in the dtype of the tokens."""

    def __call__(
        self, tokens: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
    ) -> Tensor: ...


class QuantizedLinear(nn.Module):
    """Takes the place of an `nn.Linear` on the meta device.

    Args:
        plain: The layer that it replaces.
        dtype: Dtype of the weights.
        multiply: The product, as the device computes it.
    """

    def __init__(self, plain: nn.Linear, dtype: torch.dtype, multiply: Multiply) -> None:
        super().__init__()
        self._multiply = multiply
        self.sides = (plain.out_features, plain.in_features)
        self.weight = _parameter(plain.weight.shape, dtype)
        # In rows, as the weight, so that FSDP gives each rank the factors of its own rows. Since a
        # block then has several dtypes, FSDP gathers its bytes, which every backend can send.
        self.weight_scale = _parameter((plain.out_features, 1), torch.float32)
        self.bias = plain.bias

    def forward(self, hidden_BLC: Tensor) -> Tensor:
        """Return the output, `[..., O]`."""
        parts = [
            self._multiply(tokens, self.weight, self.weight_scale, self.bias)
            for tokens in hidden_BLC.flatten(0, -2).contiguous().split(TOKENS_AT_ONCE)
        ]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        output: Tensor = whole.unflatten(0, hidden_BLC.shape[:-1])
        return output


def install_8bit(
    model: nn.Module, weights: Collection[str], form: EightBit, multiply: Multiply
) -> None:
    """Replace linear layers of a model that is on the meta device.

    Args:
        model: The model, in its final dtypes.
        weights: Names of the weights that become 8-bit numbers.
        form: Their form.
        multiply: The product, as the device computes it.
    """
    dtype = next(dtype for dtype, name in DTYPES.items() if name == form)
    for name in weights:
        path = name.removesuffix(".weight")
        parent, _, attribute = path.rpartition(".")
        linear = QuantizedLinear(model.get_submodule(path), dtype, multiply)  # type: ignore[arg-type]
        setattr(model.get_submodule(parent), attribute, linear)


def scale_of(weight: str) -> str:
    """Return the name of the scale that belongs to a weight of 8-bit numbers."""
    return f"{weight.removesuffix('weight')}{SCALE}"


def longest_sides(model: nn.Module) -> Iterator[int]:
    """Yield the longer side of each 8-bit matrix of a model."""
    linears = (module for module in model.modules() if isinstance(module, QuantizedLinear))
    return (max(linear.sides) for linear in linears)


def multiply_fp8(
    tokens: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    *,
    quantize: Quantize8,
) -> Tensor:
    numbers, scale = quantize(tokens, weight.dtype)
    product: Tensor = torch._scaled_mm(
        numbers,
        weight.t(),
        scale_a=scale,
        scale_b=weight_scale.t(),
        bias=bias,
        out_dtype=tokens.dtype,
    )
    return product


def multiply_int8(
    tokens: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    *,
    quantize: Quantize8,
) -> Tensor:
    numbers, scale = quantize(tokens, weight.dtype)
    num_tokens = len(tokens)
    numbers = F.pad(numbers, (0, 0, 0, max(0, _LEAST_ROWS - num_tokens)))
    product = torch._int_mm(numbers, weight.t())[:num_tokens].float()
    product.mul_(scale).mul_(weight_scale.t())
    if bias is not None:
        product.add_(bias)
    return product.to(tokens.dtype)


def multiply_fused(
    tokens: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Multiply in int8 with the kernels of an NPU: one rounds the tokens, one does all else."""
    numbers, scale = torch.ops.npu.npu_dynamic_quant(tokens)
    product: Tensor = torch.ops.npu.npu_quant_matmul(
        numbers,
        weight.t(),
        weight_scale.flatten(),
        bias=bias,
        pertoken_scale=scale,
        output_dtype=tokens.dtype,
    )
    return product


def _parameter(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
