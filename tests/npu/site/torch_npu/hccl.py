"""The process group `hccl`: gloo's, for tensors of the device.

Two functions of `torch.distributed` are replaced by torch_npu's own, taken from its wheel.
"""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import (
    FakeProcessGroup,
    _DistributedBackendOptions,
    _ProcessGroupWrapper,
)
from torch.distributed import distributed_c10d

from . import npu
from .extension import native


def register() -> None:
    """Let torch make such groups."""
    dist.Backend.register_backend("hccl", _make, extended_api=True, devices=["npu"])
    functions = _real_functions()
    distributed_c10d._new_process_group_helper = functions["_new_process_group_helper"]
    distributed_c10d.batch_isend_irecv = functions["_batch_isend_irecv"]
    dist.batch_isend_irecv = functions["_batch_isend_irecv"]


def _make(options: Any, backend_options: object) -> Any:
    gloo = dist.ProcessGroupGloo(
        options.store, options.group_rank, options.group_size, timeout=options.timeout
    )
    return native.ProcessGroupHCCL(gloo, options.group_rank, options.group_size)


def _real_functions() -> dict[str, Any]:
    # What the modules that they are from import or set.
    namespace = dict(vars(distributed_c10d)) | {
        "FakeProcessGroup": FakeProcessGroup,
        "_CANN_VERSION": True,  # whether it is 9 or newer
        "_DistributedBackendOptions": _DistributedBackendOptions,
        "_ProcessGroupWrapper": _ProcessGroupWrapper,
        "dist_c10d": distributed_c10d,
        "logger": logging.getLogger("torch.distributed"),
        "logging": logging,
        "npu": npu,
        "torch": torch,
        "warnings": warnings,
    }
    path = os.environ["NPU_STAND_IN_FUNCTIONS"]
    exec(compile(Path(path).read_text(), path, "exec"), namespace)
    return namespace
