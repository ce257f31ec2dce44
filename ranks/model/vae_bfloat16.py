"""The VAE in bfloat16: channels last, and each norm one kernel with the activation behind it.

In bfloat16 the fast 3-D convolutions of a GPU take channels last, and would copy any other order
back and forth. A norm then reads its channels side by side.

Shapes: N frames times height times width, C channels.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanDecoder3d,
    WanEncoder3d,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn

from ranks.model.vae_norm import SMALLEST

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of dimensions of a convolution's weights; outputs inherit them."""

NormRows = Callable[[Tensor, Tensor], Tensor]


def install_bfloat16(vae: AutoencoderKLWan, *, is_compiled: bool) -> None:
    """Make a loaded VAE in bfloat16 fast; the results differ by rounding."""
    for weight in vae.parameters():
        if layout := _LAYOUTS.get(weight.dim()):
            weight.data = weight.data.contiguous(memory_format=layout)
    norm, norm_and_activate = (
        _compiled(function) if is_compiled else function
        for function in (norm_rows, norm_rows_and_activate)
    )
    for module in vae.modules():
        if isinstance(module, WanRMS_norm):
            module.forward = partial(_norm, module, norm)
    for module in vae.modules():
        for activated in _activated_norms(module):
            activated.forward = partial(_norm, activated, norm_and_activate)
            module.nonlinearity = nn.Identity()


def norm_rows(rows_NC: Tensor, gamma_C: Tensor) -> Tensor:
    """Return rows at length sqrt(C), times gamma; computed in float32 and rounded once."""
    return _norm_in_float32(rows_NC, gamma_C).to(rows_NC.dtype)


def norm_rows_and_activate(rows_NC: Tensor, gamma_C: Tensor) -> Tensor:
    """Return SiLU of `norm_rows`, rounded once."""
    return F.silu(_norm_in_float32(rows_NC, gamma_C), inplace=True).to(rows_NC.dtype)


def _norm_in_float32(rows_NC: Tensor, gamma_C: Tensor) -> Tensor:
    wide = rows_NC.to(torch.float32, copy=True)
    length = wide.square().mean(dim=1, keepdim=True).sqrt()
    return wide.div_(length.clamp_min(SMALLEST)).mul_(gamma_C)


def _compiled(plain: NormRows) -> NormRows:
    # "dynamic": one kernel for all sizes, since a clip has a dozen. The rest is as in `kernels`.
    return torch.compile(plain, fullgraph=True, dynamic=True, options={"deterministic": True})


def _activated_norms(module: nn.Module) -> tuple[WanRMS_norm, ...]:
    """Return the norms of a module whose `nonlinearity` follows each of them."""
    match module:
        case WanResidualBlock(nonlinearity=nn.SiLU()):
            return module.norm1, module.norm2
        case WanEncoder3d() | WanDecoder3d() if isinstance(module.nonlinearity, nn.SiLU):
            return (module.norm_out,)
        case _:
            return ()


def _norm(norm: WanRMS_norm, norm_rows: NormRows, x: Tensor) -> Tensor:
    """Normalise the channels of `x`, `[B, C, ...]`."""
    assert not isinstance(norm.bias, Tensor), "the norms of Wan's VAEs have no bias"
    rows = x.movedim(1, -1)
    # Contiguous, although most are: kernels would be compiled again for another order.
    normed = norm_rows(rows.reshape(-1, rows.shape[-1]).contiguous(), norm.gamma.flatten())
    return normed.view(rows.shape).movedim(-1, 1)
