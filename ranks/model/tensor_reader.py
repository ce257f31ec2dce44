"""Reads rows of stored weights, and no others: files are mapped, not loaded."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ranks.model_files.torch_file import read_torch_tensors
from ranks.model_files.weight_files import StoredWeight


class TensorReader:
    """Keeps files open while a model is filled."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._files: dict[Path, Any] = {}

    def __enter__(self) -> "TensorReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._opened.close()

    def read(self, weight: StoredWeight, rows: slice) -> Tensor:
        """Return rows of a weight: in the dtype of the file, or in float32 if that has 8 bits.

        Args:
            weight: Where it is stored.
            rows: A range of its first dimension, with both ends.

        Raises:
            ModelFolderError: If a checkpoint of torch cannot be read.
        """
        numbers = self.read_numbers(weight, rows)
        if weight.scale is None:
            return numbers
        return numbers.float() * self.read_scale(weight, rows)

    def read_scale(self, weight: StoredWeight, rows: slice) -> Tensor:
        """Return the factors of rows of a weight of 8-bit numbers, `[rows, 1]`, float32."""
        assert weight.scale is not None, "the weight is plain"
        whole: Tensor = self._tensor(weight.scale)[...]
        return whole.float().reshape(-1, 1).expand(weight.shape[0], 1)[rows]

    def read_numbers(self, weight: StoredWeight, rows: slice) -> Tensor:
        """Return rows of a weight as the file holds them, whatever their scale."""
        stored = self._tensor(weight)
        shape = tuple(stored.shape if isinstance(stored, Tensor) else stored.get_shape())
        if len(shape) != len(weight.shape):
            # Small ones only; they have sides of length 1 in front.
            whole: Tensor = stored[...].reshape(weight.shape)
            return whole[rows]
        first = weight.first_row
        part: Tensor = stored[first + rows.start : first + rows.stop] if shape else stored[...]
        return part

    def _tensor(self, weight: StoredWeight) -> Any:
        """Return what can be sliced: a mapped tensor, or a slice of a safetensors file."""
        path = weight.path
        if path.suffix != ".safetensors":
            if path not in self._files:
                self._files[path] = read_torch_tensors(path)
            return self._files[path][weight.name]
        if path not in self._files:
            self._files[path] = self._opened.enter_context(safe_open(path, framework="pt"))
        return self._files[path].get_slice(weight.name)
