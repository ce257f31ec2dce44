"""Reads a model in the original layout of Wan: one folder, with `.pth` files beside the shards.

Wan2.2 A14B has its two transformers in folders of their own. Only transformers have a config; those
of the other components follow from the shapes of their weights.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from broker.wire.model_profile import Family
from ranks.errors import ModelFolderError
from ranks.model_files.components import Component, ComponentName, ModelFiles
from ranks.model_files.diffusers_folder import PROCESSOR, check_processor, check_tokenizer
from ranks.model_files.json_file import read_json
from ranks.model_files.original_components import (
    image_encoder_of,
    text_encoder_of,
    transformer_of,
    vae_of,
)
from ranks.model_files.single_file import GivenTransformers
from ranks.model_files.stored_8bit import with_scales
from ranks.model_files.torch_file import read_torch_file
from ranks.model_files.weight_files import find_weights, weight_file_names

EXPERTS: dict[ComponentName, str] = {
    "transformer": "high_noise_model",
    "transformer_2": "low_noise_model",
}
TOKENIZER = "google/umt5-xxl"
TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE_ENCODER = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
VAE_21 = "Wan2.1_VAE.pth"
VAE_22 = "Wan2.2_VAE.pth"

_A14B_BOUNDARY = 0.9
_EXPECTED = "expected Wan2.1 I2V or FLF2V, Wan2.2 I2V-A14B or TI2V-5B"
_MOST_NAMES = 5


class _Kind(msgspec.Struct, frozen=True):
    """What a folder holds besides transformers, text encoder and tokenizer."""

    family: Family
    vae: str
    image_encoder: str | None


_A14B = _Kind("wan2.2-i2v-a14b", VAE_21, None)
_KINDS = {
    "i2v": _Kind("wan2.1-i2v", VAE_21, IMAGE_ENCODER),
    "flf2v": _Kind("wan2.1-flf2v", VAE_21, IMAGE_ENCODER),
    "ti2v": _Kind("wan2.2-ti2v-5b", VAE_22, None),
}
"""By the `model_type` of the transformer's config."""
_KIND_OF_FAMILY = {kind.family: kind for kind in (_A14B, *_KINDS.values())}

_OTHERS = {
    "t2v": "T2V (text to video)",
    "vace": "VACE",
    "s2v": "S2V (speech to video)",
    "animate": "Animate",
}

_STATED = {
    "dim": "attention_dim",
    "ffn_dim": "ffn_dim",
    "num_layers": "num_layers",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "freq_dim": "freq_dim",
}
"""What an original config states of what the shapes tell, and its name in ours."""


def is_original_folder(folder: Path) -> bool:
    """Return whether a folder has this layout, of whichever model of Wan."""
    # The transformer, and its config with it, may come from elsewhere.
    if _has_experts(folder) or (folder / TEXT_ENCODER).is_file():
        return True
    if not (folder / "config.json").is_file():
        return False
    name = str(read_json(folder / "config.json").get("_class_name"))
    return "Wan" in name and "Transformer" not in name


def open_original_folder(folder: Path, given: GivenTransformers | None = None) -> ModelFiles:
    """Return the components of a folder, read from configs, headers and indexes.

    Args:
        folder: The folder.
        given: Take the place of its transformers, which may be missing.

    Raises:
        ModelFolderError: If anything is missing, damaged, quantized or of another model.
    """
    transformers = _transformer_folders(folder) if given is None else {}
    if given is None:
        kind = _kind_of(folder, list(transformers.values()))
    else:
        kind = _KIND_OF_FAMILY[given.family]
    _refuse_incomplete(folder, transformers.values(), kind)
    check_tokenizer(folder / TOKENIZER)
    components = {} if given is None else dict(given.components)
    components |= {name: _read_transformer(path) for name, path in transformers.items()}
    text_encoder, vae = folder / TEXT_ENCODER, folder / kind.vae
    components["text_encoder"] = text_encoder_of(text_encoder, read_torch_file(text_encoder))
    components["vae"] = vae_of(vae, read_torch_file(vae))
    if kind.image_encoder is not None:
        encoder = folder / kind.image_encoder
        components["image_encoder"] = image_encoder_of(encoder, read_torch_file(encoder))
    _refuse_mixed(components)
    return ModelFiles(
        place=folder,
        layout="original",
        family=kind.family,
        components=components,
        tokenizer=folder / TOKENIZER,
        image_processor=_image_processor(folder, components),
        boundary_ratio=_A14B_BOUNDARY if kind is _A14B else None,
    )


def _image_processor(folder: Path, components: Mapping[ComponentName, Component]) -> Path | None:
    # None is part of the layout, but one from a folder of diffusers may be put here.
    if "image_encoder" not in components or not (folder / PROCESSOR).is_file():
        return None
    check_processor(folder / PROCESSOR, components["image_encoder"].config["image_size"])
    return (folder / PROCESSOR).parent


def _has_experts(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in EXPERTS.values())


def _transformer_folders(folder: Path) -> dict[ComponentName, Path]:
    if _has_experts(folder):
        return {component: folder / name for component, name in EXPERTS.items()}
    return {"transformer": folder}


def _kind_of(folder: Path, transformers: list[Path]) -> _Kind:
    types = [_type_of(folder, path / "config.json") for path in transformers]
    if len(types) == 2:
        if types != ["i2v", "i2v"]:
            names = " and ".join(types)
            raise ModelFolderError(f"model folder {folder} holds Wan2.2 {names} A14B; {_EXPECTED}")
        return _A14B
    if types[0] == "i2v" and _is_expert(folder):
        raise ModelFolderError(
            f"model folder {folder} holds one of the two transformers of Wan2.2 A14B; name the "
            f"folder that has {' and '.join(EXPERTS.values())}"
        )
    return _KINDS[types[0]]


def _type_of(folder: Path, config: Path) -> str:
    if not config.is_file():
        name = config.relative_to(folder)
        raise ModelFolderError(f"model folder {folder} is incomplete; missing: {name}")
    stated = read_json(config)
    class_name = str(stated.get("_class_name"))
    # Some classes of Wan2.2 are named after their kind, and give no `model_type`.
    kinds = [*class_name.lower().split("_"), str(stated.get("model_type"))]
    found = next((kind for kind in kinds if kind in _KINDS or kind in _OTHERS), class_name)
    if class_name != "WanModel" or found not in _KINDS:
        named = f"Wan {_OTHERS[found]}" if found in _OTHERS else f"a {class_name} of Wan"
        raise ModelFolderError(
            f"model folder {folder} is an original folder of {named}; {_EXPECTED}"
        )
    return found


def _is_expert(folder: Path) -> bool:
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    names = read_json(index).get("weight_map") if index.is_file() else None
    return isinstance(names, dict) and not any(name.startswith("img_emb.") for name in names)


def _refuse_incomplete(folder: Path, transformers: Iterable[Path], kind: _Kind) -> None:
    wanted = [path / name for path in transformers for name in weight_file_names(path)]
    wanted += [folder / kind.vae, folder / TEXT_ENCODER]
    wanted += [] if kind.image_encoder is None else [folder / kind.image_encoder]
    wanted.append(folder / TOKENIZER / "tokenizer_config.json")
    missing = [str(path.relative_to(folder)) for path in wanted if not path.is_file()]
    if missing:
        more = len(missing) - _MOST_NAMES
        named = ", ".join(missing[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        raise ModelFolderError(
            f"model folder {folder} is incomplete; missing: {named}; download it again"
        )


def _read_transformer(folder: Path) -> Component:
    stated = read_json(folder / "config.json")
    found = find_weights(folder, may_be_quantized=True)
    heads = stated.get("num_heads")
    if not isinstance(heads, int) or heads < 1:
        raise ModelFolderError(
            f"{folder}/config.json: num_heads is {heads!r}; expected a whole number from 1 up; "
            "download the file again"
        )
    component = transformer_of(folder, with_scales(found.weights), heads, found.strays)
    _compare(folder, stated, component.config)
    return component


def _compare(folder: Path, stated: dict[str, Any], config: dict[str, Any]) -> None:
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    for name, own in _STATED.items():
        found = dim if own == "attention_dim" else config[own]
        if name in stated and stated[name] != found:
            raise ModelFolderError(
                f"{folder}/config.json states {name} {stated[name]!r}, its weights have {found}; "
                "are they of one model? Download it again"
            )


def _refuse_mixed(components: dict[ComponentName, Component]) -> None:
    """Refuse files that are each whole, but of models that do not belong together."""
    configs = {name: component.config for name, component in components.items()}
    transformer = configs["transformer"]
    wanted: list[tuple[ComponentName, str, object]] = [
        ("transformer_2", "in_channels", transformer["in_channels"]),
        ("transformer_2", "text_dim", transformer["text_dim"]),
        ("vae", "z_dim", transformer["out_channels"]),
        ("text_encoder", "d_model", transformer["text_dim"]),
        ("image_encoder", "hidden_size", transformer["image_dim"]),
    ]
    for name, field, expected in wanted:
        if name in configs and configs[name][field] != expected:
            raise ModelFolderError(
                f"{components[name].place} is of another model: its {field} is "
                f"{configs[name][field]}, the transformer of {components['transformer'].place} "
                f"needs {expected}; download it again"
            )
