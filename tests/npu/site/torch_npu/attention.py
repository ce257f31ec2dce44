"""The attention kernel of torch_npu."""

import torch
from torch import Tensor

_MAX_HEAD_DIM = 768


def npu_fusion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = 2147483647,
    next_tockens: int = 2147483647,
    inner_precise: int = 0,
    sync: bool = False,
) -> tuple[Tensor, None, None, None, int, int, int]:
    """Return the attention `[B, S, N, D]` first, as the real kernel does, and nothing after it.

    Raises:
        RuntimeError: If the real kernel would not take the tensors.
        NotImplementedError: If the stand-in does not.
    """
    for tensor in (query, key, value):
        _check(tensor, query.dtype, head_num)
    if input_layout != "BSND" or pse is not None or atten_mask is not None or keep_prob != 1.0:
        raise NotImplementedError("the stand-in computes plain attention in the layout BSND only")
    if min(pre_tockens, next_tockens) < key.shape[1]:
        raise NotImplementedError("the stand-in computes attention over all tokens only")
    # It takes the heads before the tokens.
    attended = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale=scale
    )
    return attended.transpose(1, 2).contiguous(), None, None, None, 0, 0, 0


def _check(tensor: Tensor, dtype: torch.dtype, head_num: int) -> None:
    if tensor.device.type != "npu":
        raise RuntimeError(f"npu_fusion_attention: expected NPU tensors, found {tensor.device}")
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32) or tensor.dtype != dtype:
        raise RuntimeError(f"npu_fusion_attention does not support {tensor.dtype} here")
    if tensor.dim() != 4 or tensor.shape[2] != head_num or tensor.shape[3] > _MAX_HEAD_DIM:
        raise RuntimeError(f"npu_fusion_attention: {tuple(tensor.shape)} with {head_num} heads")
