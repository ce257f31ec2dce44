"""The norm and the rotation of torch_npu, as its documents define them.

Also on the meta device, where bytes are counted without computing.
"""

import torch
from torch import Tensor

_SCHEMAS = {
    "npu_rms_norm": "(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
    "npu_rotary_mul": "(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half', "
    "Tensor? rotate=None) -> Tensor",
}

_library = torch.library.Library("npu", "FRAGMENT")


def register() -> None:
    """Make the operators."""
    for name, schema in _SCHEMAS.items():
        _library.define(name + schema)
    for key in ("PrivateUse1", "Meta"):
        _library.impl("npu_rms_norm", _rms_norm, key)
        _library.impl("npu_rotary_mul", _rotary_mul, key)


def _rms_norm(tokens: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Return the tokens divided by their root mean square, times gamma, and the factor of each.

    Raises:
        RuntimeError: If the real kernel might not take the tensors.
    """
    if tokens.dtype != gamma.dtype or gamma.shape != tokens.shape[-1:]:
        raise RuntimeError(f"npu_rms_norm: {tokens.dtype} with gamma {gamma.dtype}, {gamma.shape}")
    wide = tokens.float()
    inverse = (wide.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()
    return (wide * inverse * gamma.float()).to(tokens.dtype), inverse


def _rotary_mul(
    tokens: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    """Return `tokens * r1 + turned * r2`, where `turned` swaps pairs and negates the first.

    Raises:
        RuntimeError: If the real kernel might not take the tensors.
        NotImplementedError: If the stand-in does not.
    """
    if rotary_mode != "interleave" or rotate is not None:
        raise NotImplementedError("the stand-in rotates neighbouring channels only")
    batch, num_tokens, _, head_dim = tokens.shape
    table = (1, num_tokens, 1, head_dim)
    for part in (r1, r2):
        if part.dtype != tokens.dtype or part.shape != table or not part.is_contiguous():
            raise RuntimeError(f"npu_rotary_mul: {part.dtype}, {part.shape}, expected {table}")
    if batch > 1000 or head_dim % 2 or not tokens.is_contiguous():
        raise RuntimeError(f"npu_rotary_mul does not take {tuple(tokens.shape)}")
    even, odd = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return tokens * r1 + turned * r2
