"""The 8-bit kernels of torch_npu, for symmetric int8 with a factor for each token."""

import torch
from torch import Tensor

_INT8_LARGEST = 127
_SCHEMAS = (
    "npu_dynamic_quant(Tensor input, *, Tensor? smooth_scales=None, Tensor? group_index=None, "
    'int? dst_type=None, str quant_mode="pertoken", float dst_type_max=0.0) -> (Tensor, Tensor)',
    "npu_quant_matmul(Tensor x1, Tensor x2, Tensor scale, *, Tensor? offset=None, "
    "Tensor? pertoken_scale=None, Tensor? bias=None, int? output_dtype=None, int? x1_dtype=None, "
    "int? x2_dtype=None, int? pertoken_scale_dtype=None, int? scale_dtype=None, "
    "int[]? group_sizes=None, Tensor? y_scale=None) -> Tensor",
)

_library = torch.library.Library("npu", "DEF")


def register() -> None:
    """Make the operators, with kernels on the device only."""
    for schema in _SCHEMAS:
        _library.define(schema)
    _library.impl("npu_dynamic_quant", _dynamic_quant, "PrivateUse1")
    _library.impl("npu_quant_matmul", _quant_matmul, "PrivateUse1")


def _dynamic_quant(tokens: Tensor, **others: object) -> tuple[Tensor, Tensor]:
    """Return tokens in int8 and the factor of each, as the real kernel does for 16-bit tokens.

    Raises:
        RuntimeError: If the real kernel would not take the tokens.
    """
    if tokens.dtype not in (torch.float16, torch.bfloat16) or tokens.dim() < 2:
        raise RuntimeError(f"npu_dynamic_quant does not take {tokens.dtype}, {tokens.dim()}-D")
    scale = tokens.float().abs().amax(dim=-1, keepdim=True) / _INT8_LARGEST
    numbers = (tokens.float() / scale.clamp_min(1e-30)).round().to(torch.int8)
    return numbers, scale.squeeze(-1)


def _quant_matmul(
    x1: Tensor,
    x2: Tensor,
    scale: Tensor,
    *,
    pertoken_scale: Tensor,
    bias: Tensor | None = None,
    output_dtype: int | None = None,
    **others: object,
) -> Tensor:
    """Return the product in bfloat16.

    Raises:
        RuntimeError: If the real kernel would not take the tensors.
    """
    for matrix in (x1, x2):
        _check(matrix, torch.int8, matrix.shape, 2)
    _check(scale, torch.float32, (x2.shape[1],), 1)
    _check(pertoken_scale, torch.float32, (x1.shape[0],), 1)
    if bias is not None and bias.dtype not in (torch.bfloat16, torch.float32, torch.int32):
        raise RuntimeError(f"npu_quant_matmul does not take a bias of {bias.dtype}")
    # Exact in float32 for the few channels of the demo.
    sums = x1.float() @ x2.float()
    product = sums * pertoken_scale.unsqueeze(1) * scale
    return (product if bias is None else product + bias).to(torch.bfloat16)


def _check(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], dims: int) -> None:
    found = (tensor.dtype, tuple(tensor.shape), tensor.dim())
    if found != (dtype, tuple(shape), dims):
        raise RuntimeError(f"npu_quant_matmul does not take {found}; expected {dtype}, {shape}")
