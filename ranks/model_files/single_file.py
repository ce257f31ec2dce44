"""Reads a transformer from a single file with the original names, as it is often published."""

from pathlib import Path
from typing import Any

from msgspec import structs

from ranks.errors import ModelFolderError
from ranks.model_files.components import Component, ModelFiles
from ranks.model_files.original_components import transformer_of
from ranks.model_files.stored_8bit import with_scales
from ranks.model_files.weight_files import read_weight_file

_PREFIX = "model.diffusion_model."
"""Stands before the names in files that may hold other components, too."""


def with_transformer(files: ModelFiles, path: Path) -> ModelFiles:
    """Return a model whose transformer is another one, in a single file.

    Raises:
        ModelFolderError: If the file is unusable, or does not fit the other components.
    """
    if "transformer_2" in files.components:
        raise ModelFolderError(
            f"--transformer {path} is one file, but {files.place} has two transformers (Wan2.2 "
            "A14B); leave the option out"
        )
    replaced = files.components["transformer"]
    transformer = _read(path, replaced.config)
    if _kind(transformer.config) != _kind(replaced.config):
        raise ModelFolderError(
            f"--transformer {path} is {_described(transformer.config)}, but {files.place} is for "
            f"{_described(replaced.config)}; expected one of the same kind"
        )
    has_last_image = transformer.config["pos_embed_seq_len"] is not None
    family = files.family
    if family in ("wan2.1-i2v", "wan2.1-flf2v"):
        family = "wan2.1-flf2v" if has_last_image else "wan2.1-i2v"
    return structs.replace(
        files, family=family, components={**files.components, "transformer": transformer}
    )


def _read(path: Path, replaced: dict[str, Any]) -> Component:
    stored = read_weight_file(path, may_be_quantized=True)
    strays: list[str] = []
    if any(name.startswith(_PREFIX) for name in stored):
        strays = [name for name in stored if not name.startswith(_PREFIX)]
        stored = {
            name.removeprefix(_PREFIX): where
            for name, where in stored.items()
            if name.startswith(_PREFIX)
        }
    stored = with_scales(stored)
    transformer = transformer_of(path, stored, None, strays)
    # A file does not state its heads; those of a transformer of the same width are as many.
    heads = replaced["num_attention_heads"]
    if heads * replaced["attention_head_dim"] == _dim(transformer.config):
        transformer = transformer_of(path, stored, heads, strays)
    return transformer


def _dim(config: dict[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _kind(config: dict[str, Any]) -> tuple[Any, ...]:
    fields = ("in_channels", "out_channels", "text_dim", "image_dim", "patch_size")
    return tuple(str(config.get(name)) for name in fields)


def _described(config: dict[str, Any]) -> str:
    image = "without an image encoder" if config.get("image_dim") is None else "with CLIP"
    return (
        f"a transformer of {config.get('in_channels')} channels and {config.get('num_layers')} "
        f"blocks {image}"
    )
