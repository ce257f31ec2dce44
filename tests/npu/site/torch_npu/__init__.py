"""A stand-in for torch_npu: a device `npu` that computes on the CPU, as strict as the real one.

torch finds it as it finds the real package, by the entry point beside it; only processes with the
environment of `tests.npu.stand_in` do.
"""

import os
from pathlib import Path

import torch
from torch.utils.backend_registration import (
    generate_methods_for_privateuse1_backend,
    rename_privateuse1_backend,
)

from . import elementwise, hccl, npu, quantization
from .attention import npu_fusion_attention
from .extension import native

__all__ = ["npu", "npu_fusion_attention"]

__version__ = "2.13.0"

# torch_npu has kernels for them that only pass the work on, to operators that the extension has.
_TAKEN_APART = {
    *("_pin_memory", "_to_copy", "clone", "contiguous", "copy_", "copy_memory_", "empty_like"),
    *("empty_with_format", "flatten_dense_tensors", "is_pinned", "new_empty_strided"),
    *("record_stream", "set_"),
}


def _autoload() -> None:
    """Do nothing more; torch calls it once it has imported the package."""


def _set_up() -> None:
    rename_privateuse1_backend("npu")
    torch._register_device_module("npu", npu)
    generate_methods_for_privateuse1_backend(
        for_tensor=True, for_module=True, for_packed_sequence=False, for_storage=True
    )
    names = Path(os.environ["NPU_STAND_IN_OPERATORS"]).read_text().split()
    native.register_operators([name for name in names if name not in _TAKEN_APART])
    hccl.register()
    elementwise.register()
    quantization.register()


_set_up()
