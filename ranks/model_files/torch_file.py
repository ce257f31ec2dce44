"""Reads checkpoints of torch (`.pth`): plain tensors only, since the format can hold programs."""

from pathlib import Path
from typing import TYPE_CHECKING

from ranks.errors import ModelFolderError
from ranks.model_files.safetensors_header import refuse_lfs_pointer
from ranks.model_files.weight_files import StoredWeight, refuse_quantized

if TYPE_CHECKING:
    from torch import Tensor

_EXPECTED = "expected a flat dict of tensors, as in the original folders of Wan"
_LONGEST_REASON = 200


def read_torch_tensors(path: Path) -> "dict[str, Tensor]":
    """Return the tensors of a checkpoint, mapped: what is not used is not read.

    Raises:
        ModelFolderError: If the file is damaged, or holds anything but a flat dict of tensors.
    """
    # Not at the top: a folder without such files is checked in a tenth of the time.
    import torch

    refuse_lfs_pointer(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file raises errors of every kind
        raise ModelFolderError(
            f"{path} cannot be read as plain weights ({_reason(error)}); {_EXPECTED}; download it "
            "again"
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} holds a {type(content).__name__}; {_EXPECTED}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise ModelFolderError(f"{path} holds {name!r}, a {kind}; {_EXPECTED}")
    return content


def read_torch_file(path: Path) -> dict[str, StoredWeight]:
    """Return the weights in a checkpoint by their names in it.

    Raises:
        ModelFolderError: As `read_torch_tensors` does, and if the weights are quantized.
    """
    import torch

    spelled = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    tensors = read_torch_tensors(path)
    dtypes = {
        name: spelled.get(tensor.dtype, str(tensor.dtype)) for name, tensor in tensors.items()
    }
    refuse_quantized(path, dtypes)
    return {
        name: StoredWeight(path, name, tuple(tensor.shape), dtypes[name])
        for name, tensor in tensors.items()
    }


def _reason(error: Exception) -> str:
    lines = str(error).split("\n")
    # What torch explains about trusting files is no advice here.
    return " ".join(lines[0].split())[:_LONGEST_REASON] or type(error).__name__
