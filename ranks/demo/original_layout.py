"""`python -m ranks.demo.original_layout MODEL FOLDER`: write a demo model in its original layout.

The numbers stay as they are and get the names of the original files, so a job has the same result
with both folders.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from broker.wire.model_profile import Family
from ranks.model_files.components import Component
from ranks.model_files.diffusers_folder import open_diffusers_folder
from ranks.model_files.original_configs import IMAGE_ENCODER_HEADS
from ranks.model_files.original_folder import (
    EXPERTS,
    IMAGE_ENCODER,
    TEXT_ENCODER,
    TOKENIZER,
    VAE_21,
    VAE_22,
)
from ranks.model_files.original_names import (
    IMAGE_ENCODER_LAYER,
    IMAGE_ENCODER_WHOLE,
    TEXT_ENCODER_BLOCK,
    TEXT_ENCODER_WHOLE,
    TRANSFORMER_BLOCK,
    TRANSFORMER_TABLES,
    TRANSFORMER_WHOLE,
)
from ranks.model_files.original_vae import VAE_MIDDLE, VAE_RESIDUAL, VAE_WHOLE

Tensors = dict[str, Tensor]

STEM = "diffusion_pytorch_model"

_MODEL_TYPES: dict[Family, str] = {
    "wan2.1-i2v": "i2v",
    "wan2.1-flf2v": "flf2v",
    "wan2.2-i2v-a14b": "i2v",
    "wan2.2-ti2v-5b": "ti2v",
}


def write_original_layout(source: Path, folder: Path, num_shards: int = 2) -> None:
    """Write a model folder of diffusers in the original layout.

    Args:
        source: The folder of diffusers.
        folder: The new folder.
        num_shards: Files of a transformer; a single one has no index.
    """
    files = open_diffusers_folder(source)
    components = files.components
    folder.mkdir(parents=True)
    has_experts = "transformer_2" in components
    for name in EXPERTS:
        if name in components:
            place = folder / EXPERTS[name] if has_experts else folder
            _write_transformer(components[name], place, _MODEL_TYPES[files.family], num_shards)
    vae = VAE_22 if files.family == "wan2.2-ti2v-5b" else VAE_21
    torch.save(_vae_tensors(components["vae"]), folder / vae)
    torch.save(_text_encoder_tensors(components["text_encoder"]), folder / TEXT_ENCODER)
    if "image_encoder" in components:
        torch.save(_image_encoder_tensors(components["image_encoder"]), folder / IMAGE_ENCODER)
    shutil.copytree(files.tokenizer, folder / TOKENIZER)


def transformer_tensors(component: Component) -> Tensors:
    """Return the tensors of a transformer by their original names."""
    whole = {new: old for old, new in TRANSFORMER_WHOLE.items()}
    block = {new: old for old, new in TRANSFORMER_BLOCK.items()}
    tables = {new: old for old, new in TRANSFORMER_TABLES.items()}
    renamed = {}
    for name, tensor in _tensors(component).items():
        if name in tables:
            renamed[tables[name]] = tensor
        elif name.startswith("blocks.") and name.endswith(".scale_shift_table"):
            renamed[name.replace("scale_shift_table", "modulation")] = tensor
        elif name.startswith("blocks."):
            _, number, inner = name.split(".", 2)
            module, _, kind = inner.rpartition(".")
            renamed[f"blocks.{number}.{block[module]}.{kind}"] = tensor
        else:
            module, _, kind = name.rpartition(".")
            renamed[f"{whole[module]}.{kind}"] = tensor
    return renamed


def _write_transformer(component: Component, folder: Path, kind: str, num_shards: int) -> None:
    folder.mkdir(exist_ok=True)
    tensors, config = transformer_tensors(component), component.config
    stated = {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "model_type": kind,
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "num_heads": config["num_attention_heads"],
        "in_dim": config["in_channels"],
        "out_dim": config["out_channels"],
        **{name: config[name] for name in ("ffn_dim", "num_layers", "freq_dim", "eps")},
    }
    (folder / "config.json").write_text(json.dumps(stated, indent=2) + "\n")
    if num_shards == 1:
        save_file(tensors, folder / f"{STEM}.safetensors")
        return
    names, weight_map = sorted(tensors), {}
    for number in range(num_shards):
        file = f"{STEM}-{number + 1:05}-of-{num_shards:05}.safetensors"
        part = names[number::num_shards]
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))


def _text_encoder_tensors(component: Component) -> Tensors:
    whole = {new: old for old, new in TEXT_ENCODER_WHOLE.items()}
    block = {new: old for old, new in TEXT_ENCODER_BLOCK.items()}
    renamed = {}
    for name, tensor in _tensors(component).items():
        if name in whole:
            renamed[whole[name]] = tensor
        else:
            _, _, number, inner = name.split(".", 3)
            renamed[f"blocks.{number}.{block[inner.removesuffix('.weight')]}.weight"] = tensor
    return renamed


def _image_encoder_tensors(component: Component) -> Tensors:
    config = component.config
    if config["num_attention_heads"] != IMAGE_ENCODER_HEADS:
        raise ValueError(f"an image encoder in the original layout has {IMAGE_ENCODER_HEADS} heads")
    tensors = _tensors(component)
    renamed = {f"visual.{old}": tensors[new] for old, new in IMAGE_ENCODER_WHOLE.items()}
    for name in ("visual.cls_embedding", "visual.pos_embedding"):
        renamed[name] = renamed[name].reshape(1, -1, config["hidden_size"])
    for number in range(config["num_hidden_layers"]):
        for old, new in IMAGE_ENCODER_LAYER.items():
            for kind in ("weight", "bias"):
                parts = [tensors[f"encoder.layers.{number}.{name}.{kind}"] for name in new]
                renamed[f"visual.transformer.{number}.{old}.{kind}"] = torch.cat(parts)
    # The files hold the text tower, which no model here uses.
    unused = {"textual.token_embedding.weight": torch.ones(4, 8), "log_scale": torch.ones(())}
    return renamed | unused | {"visual.head": torch.ones(config["hidden_size"], 8)}


def _vae_tensors(component: Component) -> Tensors:
    num_res_blocks = component.config["num_res_blocks"]
    is_residual = bool(component.config.get("is_residual"))
    return {
        _vae_name(name, num_res_blocks, is_residual): tensor
        for name, tensor in _tensors(component).items()
    }


def _vae_name(name: str, num_res_blocks: int, is_residual: bool) -> str:
    module, _, kind = name.rpartition(".")
    whole = {new: old for old, new in VAE_WHOLE.items()}
    if module in whole:
        return f"{whole[module]}.{kind}"
    side, blocks, rest = module.split(".", 2)
    if blocks == "mid_block":
        middle = {new: old for old, new in VAE_MIDDLE.items()}
        part, number, place = rest.split(".", 2)
        block = middle[f"{blocks}.{part}.{number}"]
        return f"{side}.middle.{block}.{_within(place)}.{kind}"
    level, _, inner = rest.partition(".")
    samples = "downsamples" if side == "encoder" else "upsamples"
    if side == "encoder" and not is_residual:
        return f"{side}.{samples}.{level}.{_within(inner)}.{kind}"
    in_level = num_res_blocks + (side == "decoder")
    if match := re.fullmatch(r"resnets\.(\d+)\.(.+)", inner):
        number, place = int(match[1]), match[2]
    else:  # a resampler, after the residual blocks
        number, place = in_level, re.sub(r"^(up|down)samplers?\.(0\.)?", "", inner)
    if is_residual:
        return f"{side}.{samples}.{level}.{samples}.{number}.{_within(place)}.{kind}"
    return f"{side}.{samples}.{int(level) * (in_level + 1) + number}.{_within(place)}.{kind}"


def _within(place: str) -> str:
    return {new: old for old, new in VAE_RESIDUAL.items()}.get(place, place)


def _tensors(component: Component) -> Tensors:
    files = {where.path for where in component.weights.values()}
    return {name: tensor for path in sorted(files) for name, tensor in load_file(path).items()}


def main() -> None:
    source, folder = map(Path, sys.argv[1:])
    write_original_layout(source, folder)


if __name__ == "__main__":
    main()
