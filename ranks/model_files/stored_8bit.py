"""Understands files whose weights are 8-bit numbers: finds the scales that belong to them.

| made by | beside `X.weight` | besides |
| --- | --- | --- |
| LightX2V | `X.weight_scale`, one for each row | |
| ComfyUI | `X.scale_weight`, one for all rows | `scaled_fp8`, a marker; `X.scale_input` |
| msModelSlim | `X.weight_scale`, `X.weight_offset` | a JSON file with the algorithm of each |

A scale of inputs is not used: every token has its own here.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec import structs
from safetensors import safe_open

from ranks.errors import ModelFolderError
from ranks.model_files.json_file import read_json
from ranks.model_files.weight_files import StoredWeight, refuse_quantized

_FORMS = ("F8_E4M3", "I8")
_SCALES = ("weight_scale", "scale_weight")
_MARKER, _INPUT_SCALE, _OFFSET = "scaled_fp8", "scale_input", "weight_offset"
_DYNAMIC = "W8A8_DYNAMIC"
_WEIGHTS_FILE, _DESCRIPTION = "quant_model_weight", "quant_model_description"


def with_scales(stored: Mapping[str, StoredWeight]) -> dict[str, StoredWeight]:
    """Return the weights of a transformer, each with its scale if it is of 8-bit numbers.

    Args:
        stored: All tensors by their names, scales and markers among them.

    Raises:
        ModelFolderError: If weights are quantized in a way that is not understood.
    """
    scales = {name: where for name, where in stored.items() if _last(name) in _SCALES}
    offsets = {name: where for name, where in stored.items() if _last(name) == _OFFSET}
    passed = {*scales, *offsets, *(name for name in stored if _is_unused(name, stored[name]))}
    weights = {name: where for name, where in stored.items() if name not in passed}
    for name, where in scales.items():
        owner = f"{name.rpartition('.')[0]}.weight"
        if owner not in weights or weights[owner].dtype not in _FORMS:
            raise ModelFolderError(f"{where.path} holds {name}, but no {owner} of 8-bit numbers")
        weights[owner] = structs.replace(weights[owner], scale=_fitting(where, weights[owner]))
    _check_offsets(offsets, weights)
    for name, where in weights.items():
        if where.scale is None:
            refuse_quantized(where.path, {name: where.dtype})
    return weights


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_unused(name: str, where: StoredWeight) -> bool:
    return _last(name) == _INPUT_SCALE or (_last(name) == _MARKER and where.dtype == "F8_E4M3")


def _fitting(scale: StoredWeight, weight: StoredWeight) -> StoredWeight:
    num_rows = weight.shape[0] if len(weight.shape) == 2 else 0
    fits = num_rows and scale.shape in ((), (1,), (1, 1), (num_rows,), (num_rows, 1))
    if not fits or scale.dtype not in ("F32", "BF16", "F16"):
        raise ModelFolderError(
            f"{scale.path} holds {scale.name}, {scale.dtype} of the shape {list(scale.shape)}, for "
            f"a weight of the shape {list(weight.shape)}; expected one number, or one for each row"
        )
    return scale


def _check_offsets(
    offsets: Mapping[str, StoredWeight], weights: Mapping[str, StoredWeight]
) -> None:
    """Check what msModelSlim has done: each offset must be zero, each algorithm the dynamic one.

    Raises:
        ModelFolderError: If not.
    """
    told: dict[Path, dict[str, object]] = {}
    for name, offset in offsets.items():
        owner = weights.get(f"{name.rpartition('.')[0]}.weight")
        if owner is None or owner.dtype != "I8" or owner.scale is None:
            raise ModelFolderError(f"{offset.path} holds {name}, but no int8 weight with a scale")
        if owner.path not in told:
            told[owner.path] = read_json(_description_of(owner.path))
        algorithm = told[owner.path].get(owner.name)
        if algorithm != _DYNAMIC:
            raise ModelFolderError(
                f"{owner.path} holds {owner.name}, quantized as {algorithm}; expected {_DYNAMIC}"
            )
    for path in {offset.path for offset in offsets.values()}:
        _refuse_asymmetric([offset for offset in offsets.values() if offset.path == path], path)


def _description_of(weights: Path) -> Path:
    """Return the JSON file beside a file of weights: the one named like it, or the only one."""
    named = weights.name.replace(_WEIGHTS_FILE, _DESCRIPTION)
    own = weights.with_name(named).with_suffix(".json")
    found = [own] if own.is_file() else sorted(weights.parent.glob(f"{_DESCRIPTION}*.json"))
    if len(found) != 1:
        raise ModelFolderError(
            f"{weights} holds offsets of msModelSlim, and {own.name}, which tells how its weights "
            "are quantized, is not beside it; copy that file there"
        )
    return found[0]


def _refuse_asymmetric(offsets: list[StoredWeight], path: Path) -> None:
    with safe_open(path, framework="numpy") as file:
        for offset in offsets:
            if offset.dtype not in ("F32", "F16") or file.get_tensor(offset.name).any():
                raise ModelFolderError(
                    f"{path} holds {offset.name}, which is not zero: its weights are quantized "
                    "asymmetrically; expected symmetric ones"
                )
