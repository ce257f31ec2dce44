"""Reads the header of a safetensors file: the name, dtype and shape of each tensor."""

import math
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from ranks.errors import ModelFolderError

_MAX_HEADER_BYTES = 16 << 20
"""Far more than the header of any model here: the 14B transformer's has 0.2 MB."""

ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "F8_E4M3": 1, "I8": 1}

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_OTHER_CONTENT = {
    b"PK\x03\x04": "a PyTorch checkpoint",
    b"\x80\x02": "a PyTorch checkpoint",
    b"GGUF": "a GGUF file",
    b"<": "a web page",
}

Size = Annotated[int, msgspec.Meta(ge=0)]


class StoredTensor(msgspec.Struct, frozen=True):
    """A tensor as the header describes it."""

    dtype: str
    """As safetensors spells it: `F32`, `BF16`, …"""
    shape: tuple[Size, ...]
    data_offsets: tuple[Size, Size]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name, without reading their data.

    Raises:
        ModelFolderError: If the file is anything but a whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read: {error.strerror}") from error


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the text that Git puts in a file's place when Git LFS is not installed.

    Raises:
        ModelFolderError: If the file is such a text, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read: {error.strerror}") from error
    if start == _LFS_POINTER:
        raise ModelFolderError(
            f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in the model "
            "folder, or download the model again"
        )


def _read(path: Path, file: BinaryIO) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    start = file.read(8)
    refuse_lfs_pointer(path)
    if size < 8:
        raise _damaged(path, f"ends after {size} bytes")
    # The length is checked before anything is read: a damaged one may be any number.
    header_bytes = int.from_bytes(start, "little")
    if header_bytes > min(size - 8, _MAX_HEADER_BYTES):
        # Only now: the length of a whole file may look like any of the signatures.
        for signature, kind in _OTHER_CONTENT.items():
            if start.startswith(signature):
                raise ModelFolderError(f"{path} is {kind}; expected a safetensors file")
        raise _damaged(path, f"has {size} bytes and states a header of {header_bytes}")
    try:
        tensors = _decode(file.read(header_bytes))
    except msgspec.MsgspecError as error:
        raise _damaged(path, f"has no valid header ({error})") from error
    for name, tensor in tensors.items():
        _check_size(path, name, tensor)
    expected = 8 + header_bytes + max((t.data_offsets[1] for t in tensors.values()), default=0)
    if size != expected:
        raise _damaged(path, f"has {size} bytes, its header states {expected}")
    return tensors


def _decode(header: bytes) -> dict[str, StoredTensor]:
    entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
    entries.pop("__metadata__", None)
    return {name: msgspec.json.decode(entry, type=StoredTensor) for name, entry in entries.items()}


def _check_size(path: Path, name: str, tensor: StoredTensor) -> None:
    begin, end = tensor.data_offsets
    expected = math.prod(tensor.shape) * ITEM_BYTES.get(tensor.dtype, 0)
    if end < begin or (tensor.dtype in ITEM_BYTES and end - begin != expected):
        raise _damaged(path, f"gives {name} {end - begin} bytes, its shape has {expected}")


def _damaged(path: Path, what: str) -> ModelFolderError:
    return ModelFolderError(
        f"{path} has damaged weights: it {what}; remove the file and download it again"
    )
