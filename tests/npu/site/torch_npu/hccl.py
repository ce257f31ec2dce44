"""The process group `hccl`: gloo's, for tensors of the device."""

from typing import Any

import torch.distributed as dist

from .extension import native


def register() -> None:
    """Let torch make such groups."""
    dist.Backend.register_backend("hccl", _make, extended_api=True, devices=["npu"])


def _make(options: Any, backend_options: object) -> Any:
    gloo = dist.ProcessGroupGloo(
        options.store, options.group_rank, options.group_size, timeout=options.timeout
    )
    return native.ProcessGroupHCCL(gloo, options.group_rank, options.group_size)
