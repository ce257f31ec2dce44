"""Writes a transformer's weights as the files of others hold 8-bit numbers."""

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from ranks.model.kernels import quantize_rows

Maker = Literal["LightX2V fp8", "LightX2V int8", "ComfyUI", "msModelSlim"]
Tensors = dict[str, Tensor]

FP8, INT8 = torch.float8_e4m3fn, torch.int8
DTYPES: dict[Maker, torch.dtype] = {
    "LightX2V fp8": FP8,
    "LightX2V int8": INT8,
    "ComfyUI": FP8,
    "msModelSlim": INT8,
}


def write_quantized(original: Tensors, folder: Path, maker: Maker) -> Path:
    """Write the weights of a transformer, given by their original names; return the file."""
    folder.mkdir(exist_ok=True)
    tensors, dtype = dict(original), DTYPES[maker]
    chosen = is_linear if maker == "ComfyUI" else is_in_block
    described = {"model_quant_type": "W8A8_DYNAMIC"} | dict.fromkeys(original, "FLOAT")
    for name in filter(lambda name: chosen(name, original[name]), original):
        stem = name.removesuffix("weight")
        if maker == "ComfyUI":
            scale = original[name].abs().max() / torch.finfo(dtype).max
            tensors[name] = (original[name] / scale).to(dtype)
            tensors[f"{stem}scale_weight"] = scale
            tensors[f"{stem}scale_input"] = torch.ones(())
            continue
        tensors[name], tensors[f"{stem}weight_scale"] = quantize_rows(original[name], dtype)
        if maker == "msModelSlim":
            tensors[f"{stem}weight_offset"] = torch.zeros(len(original[name]), 1)
            described |= {f"{stem}{part}": "W8A8_DYNAMIC" for part in _SLIM_PARTS}
    if maker == "ComfyUI":
        tensors["scaled_fp8"] = torch.empty(0, dtype=dtype)
    file = folder / _NAMES.get(maker, "wan2.1_i2v_720p.safetensors")
    save_file(tensors, file)
    if maker == "msModelSlim":
        (folder / DESCRIPTION).write_text(json.dumps(described))
    return file


def dequantized(original: Tensors, maker: Maker) -> Tensors:
    """Return what such a file means, in float32."""

    def meant(name: str, tensor: Tensor) -> Tensor:
        if maker == "ComfyUI" and is_linear(name, tensor):
            scale = tensor.abs().max() / torch.finfo(FP8).max
            return (tensor / scale).to(FP8).float() * scale
        if maker != "ComfyUI" and is_in_block(name, tensor):
            numbers, scale = quantize_rows(tensor, DTYPES[maker])
            return numbers.float() * scale
        return tensor

    return {name: meant(name, tensor) for name, tensor in original.items()}


def is_linear(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.dim() == 2


def is_in_block(name: str, tensor: Tensor) -> bool:
    return is_linear(name, tensor) and name.startswith("blocks.")


DESCRIPTION = "quant_model_description_w8a8_dynamic_0.json"
_NAMES: dict[Maker, str] = {"msModelSlim": "quant_model_weight_w8a8_dynamic_0.safetensors"}
_SLIM_PARTS = ("weight", "weight_scale", "weight_offset")
