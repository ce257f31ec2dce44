"""Ranks read their own rows of a weight, whichever file it is in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ranks.model.tensor_reader import TensorReader
from ranks.model_files.weight_files import StoredWeight

STORED = torch.arange(24.0).reshape(6, 4)


@pytest.fixture(params=["weights.safetensors", "weights.pth"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    tensors = {"qkv": STORED, "row": STORED.clone().reshape(1, 6, 4), "scalar": torch.tensor(3.0)}
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    return path


def test_a_part_of_a_tensor_is_read_by_its_rows(file: Path) -> None:
    keys = StoredWeight(file, "qkv", (2, 4), "F32", first_row=2)
    with TensorReader() as reader:
        assert torch.equal(reader.read(keys, slice(0, 2)), STORED[2:4])
        assert torch.equal(reader.read(keys, slice(1, 2)), STORED[3:4])


def test_a_tensor_of_another_shape_is_reshaped(file: Path) -> None:
    table = StoredWeight(file, "row", (6, 4), "F32")
    with TensorReader() as reader:
        assert torch.equal(reader.read(table, slice(4, 6)), STORED[4:])


def test_a_tensor_without_dimensions_is_read(file: Path) -> None:
    with TensorReader() as reader:
        assert reader.read(StoredWeight(file, "scalar", (), "F32"), slice(0, 1)) == 3.0
