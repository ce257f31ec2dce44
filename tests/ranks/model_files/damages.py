"""Ways in which a model folder in the original layout is no model, and how each is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ranks.model_files.original_folder import IMAGE_ENCODER, TEXT_ENCODER, VAE_21
from tests.stub_model import set_fields

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:38\nsize 507609880\n"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
SHARD = "diffusion_pytorch_model-00002-of-00002.safetensors"

Damage = Callable[[Path], object]


class Harmful:
    """Its pickle names a class, which only a program could need."""


def cut_off(name: str) -> Damage:
    def cut(folder: Path) -> None:
        path = folder / name
        os.truncate(path, path.stat().st_size // 2)

    return cut


def save_torch(name: str, content: object) -> Damage:
    return lambda folder: torch.save(content, folder / name)


def change_shard(folder: Path, change: dict[str, torch.Tensor]) -> None:
    save_file(load_file(folder / SHARD) | change, folder / SHARD)


def some_weight(folder: Path) -> str:
    names: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    return next(n for n, file in names.items() if file == SHARD and n.startswith("blocks.1.ffn"))


def make_shape_wrong(folder: Path) -> None:
    change_shard(folder, {some_weight(folder): torch.ones(3, 3)})


def name_missing_file(folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"]["blocks.0.norm3.bias"] = "elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(content))


def mix_with_another_model(folder: Path) -> None:
    """Put a VAE of fewer channels beside the transformer."""
    vae = torch.load(folder / VAE_21, weights_only=True)
    vae["conv2.weight"] = vae["conv2.weight"][:8, :8]
    torch.save(vae, folder / VAE_21)


def save_as_expert(folder: Path) -> None:
    names = json.loads((folder / INDEX).read_text())
    names["weight_map"] = {k: v for k, v in names["weight_map"].items() if "img" not in k}
    (folder / INDEX).write_text(json.dumps(names))


def replace_by_folder(name: str) -> Damage:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return replace


def quantize(folder: Path) -> None:
    name = some_weight(folder)
    weight = load_file(folder / SHARD)[name].to(torch.float8_e4m3fn)
    change_shard(folder, {name: weight})


def state_type(**fields: str) -> Damage:
    return lambda folder: set_fields(folder / "config.json", **fields)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing shard": (lambda f: (f / SHARD).unlink(), f"is incomplete; missing: {SHARD};"),
    "index naming a missing file": (name_missing_file, "missing: elsewhere.safetensors;"),
    "truncated shard": (cut_off(SHARD), "has damaged weights: it has"),
    "truncated .pth": (cut_off(VAE_21), f"{VAE_21} cannot be read as plain weights"),
    "LFS pointer": (
        lambda f: (f / TEXT_ENCODER).write_text(LFS_POINTER),
        f"{TEXT_ENCODER} is a Git LFS pointer",
    ),
    "missing .pth": (lambda f: (f / IMAGE_ENCODER).unlink(), f"missing: {IMAGE_ENCODER};"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "google"), "missing: google/umt5-xxl/tokenizer_"),
    "wrong shape": (make_shape_wrong, "has the shape [3, 3], expected ["),
    "pickle with a class": (
        save_torch(VAE_21, {"conv1.weight": Harmful()}),
        f"{VAE_21} cannot be read as plain weights (Weights only load failed",
    ),
    "nested dict": (
        save_torch(VAE_21, {"state_dict": {"conv1.weight": torch.ones(2)}}),
        "holds 'state_dict', a dict; expected a flat dict of tensors",
    ),
    "whole module": (save_torch(VAE_21, [torch.ones(2)]), "holds a list; expected a flat dict"),
    "int8 .pth": (
        save_torch(VAE_21, {"conv1.weight": torch.ones(2, dtype=torch.int8)}),
        "holds conv1.weight as torch.int8: its weights are quantized",
    ),
    "scaled fp8": (quantize, "as F8_E4M3: its weights are quantized"),
    "two models mixed": (mix_with_another_model, "is of another model: its z_dim is 8"),
    "unreadable": (replace_by_folder(VAE_21), f"missing: {VAE_21};"),
    "T2V": (state_type(model_type="t2v"), "an original folder of Wan T2V"),
    "VACE": (state_type(_class_name="VaceWanModel", model_type="vace"), "folder of Wan VACE"),
    "S2V": (state_type(_class_name="WanModel_S2V"), "folder of Wan S2V"),
    "Animate": (state_type(_class_name="WanAnimateModel", model_type="animate"), "Wan Animate"),
    "an expert alone": (save_as_expert, "one of the two transformers of Wan2.2 A14B"),
    "other dimensions": (
        lambda f: set_fields(f / "config.json", ffn_dim=99),
        "states ffn_dim 99, its weights have 192",
    ),
}
