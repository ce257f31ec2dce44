"""Finds the weights of a component: which tensor is in which file, and what does not belong."""

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ranks.errors import ModelFolderError
from ranks.model_files.json_file import read_json
from ranks.model_files.safetensors_header import ITEM_BYTES, StoredTensor, read_header

_DTYPES = ("F32", "BF16", "F16")

_QUANTIZATION_KEYS = frozenset(
    {
        *("scaled_fp8", "scale_weight", "scale_input"),  # ComfyUI
        *("comfy_quant", "weight_scale", "input_scale", "weight_scale_2"),  # ComfyUI, LightX2V
        *("weight_scale_inv", "weight_zero_point", "qweight", "qzeros", "scales"),
        *("weight_offset", "quant_bias", "deq_scale", "mul_scale"),  # msModelSlim
        *("absmax", "quant_map", "SCB"),  # bitsandbytes
    }
)
"""Last parts of the names of tensors without which quantized weights have other values."""

_EXPECTED = (
    "its weights are quantized; expected plain float32, bfloat16 or float16 (F32, BF16, F16), "
    "as in the repositories whose names end in -Diffusers"
)


class StoredWeight(msgspec.Struct, frozen=True):
    """Where a tensor of a component is stored."""

    path: Path
    name: str
    """In the file."""
    shape: tuple[int, ...]
    """As the model needs it; the file may hold the same numbers in another shape."""
    dtype: str
    """As safetensors spells it."""
    first_row: int = 0
    """Where it begins, if the file holds several weights in one tensor."""
    scale: "StoredWeight | None" = None
    """The factors of its rows, `[rows, 1]`, or the one of them all, if it holds 8-bit numbers."""

    @property
    def num_bytes(self) -> int:
        own = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        return own + (0 if self.scale is None else self.scale.num_bytes)


class WeightFiles(msgspec.Struct, frozen=True):
    """The weights of a component, and the file names and tensors that are not part of it."""

    weights: dict[str, StoredWeight]
    strays: list[str]


def find_weights(component: Path, *, may_be_quantized: bool = False) -> WeightFiles:
    """Read which weights a component's folder holds, from headers only.

    Its index decides, as in diffusers. Without one, all weights are in a single file.

    Args:
        component: The folder.
        may_be_quantized: Whether the caller refuses quantized weights that it does not understand.

    Raises:
        ModelFolderError: If a file is missing or damaged, or the weights are quantized.
    """
    names = _names_by_file(component)
    check_quantization(component)
    weights: dict[str, StoredWeight] = {}
    strays = [p.name for p in sorted(component.glob("*.safetensors")) if p.name not in names]
    for file, named in names.items():
        held = read_weight_file(component / file, may_be_quantized=may_be_quantized)
        used = held.keys() if named is None else named
        if absent := sorted(set(used) - held.keys()):
            raise ModelFolderError(
                f"{component / file} lacks {absent[0]}, which the index expects there "
                f"(missing tensors: {len(absent)}); download the component again"
            )
        strays += [f"{name} in {file}" for name in sorted(held.keys() - set(used))]
        weights |= {name: held[name] for name in used}
    return WeightFiles(weights, strays)


def _stored(path: Path, name: str, tensor: StoredTensor) -> StoredWeight:
    return StoredWeight(path, name, tensor.shape, tensor.dtype)


def weight_file_names(component: Path) -> list[str]:
    return list(_names_by_file(component))


def check_quantization(component: Path) -> None:
    """Refuse a component whose config says that it is quantized.

    Raises:
        ModelFolderError: In that case.
    """
    found = read_json(component / "config.json").get("quantization_config")
    if found is not None:
        raise ModelFolderError(
            f"{component} is quantized (quantization_config in its config.json); "
            "expected weights in float32, bfloat16 or float16"
        )


def _names_by_file(component: Path) -> dict[str, list[str] | None]:
    """Return the files of a component and the tensors of each; None: all that it holds."""
    # diffusers and transformers name their files differently.
    is_diffusers = "_class_name" in read_json(component / "config.json")
    stem = "diffusion_pytorch_model" if is_diffusers else "model"
    index = component / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return {f"{stem}.safetensors": None}
    try:
        weight_map = msgspec.convert(read_json(index).get("weight_map"), dict[str, str])
    except msgspec.ValidationError as error:
        raise ModelFolderError(
            f"{index} has no weight_map from tensors to files ({error}); download it again"
        ) from error
    names: dict[str, list[str] | None] = {}
    for name, file in weight_map.items():
        if Path(file).name != file:
            raise ModelFolderError(f"{index} names {file!r}; expected a file in the same folder")
        tensors = names.setdefault(file, [])
        assert tensors is not None, "an index lists the tensors"
        tensors.append(name)
    return names


def read_weight_file(path: Path, *, may_be_quantized: bool = False) -> dict[str, StoredWeight]:
    """Return the weights in a safetensors file by their names in it, from its header only.

    Args:
        path: The file.
        may_be_quantized: Whether the caller refuses quantized weights that it does not understand.

    Raises:
        ModelFolderError: If the file is missing or damaged, or the weights are quantized.
    """
    header = read_header(path)
    if not may_be_quantized:
        refuse_quantized(path, {name: tensor.dtype for name, tensor in header.items()})
    return {name: _stored(path, name, tensor) for name, tensor in header.items()}


def refuse_quantized(path: Path, dtypes: Mapping[str, str]) -> None:
    """Refuse a file whose tensors, by their names in it, are not plain numbers.

    Raises:
        ModelFolderError: In that case.
    """
    for name in dtypes:
        if name.rpartition(".")[2] in _QUANTIZATION_KEYS:
            raise ModelFolderError(f"{path} holds {name}: {_EXPECTED}")
    for name, dtype in dtypes.items():
        # Files of older libraries hold this table, which is no weight.
        if dtype not in _DTYPES and not name.endswith(".position_ids"):
            raise ModelFolderError(f"{path} holds {name} as {dtype}: {_EXPECTED}")
