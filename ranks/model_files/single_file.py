"""Reads transformers from single files with the original names, as they are often published."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from broker.wire.model_profile import Family
from ranks.errors import ModelFolderError
from ranks.model_files.components import Component, ComponentName
from ranks.model_files.json_file import read_json
from ranks.model_files.original_components import transformer_of
from ranks.model_files.stored_8bit import with_scales
from ranks.model_files.weight_files import read_weight_file

_PREFIX = "model.diffusion_model."
"""Stands before the names in files that may hold other components, too."""

_TI2V_LATENTS = 48
"""Channels of the latents of TI2V-5B, whose transformer takes nothing else, as those of T2V do."""

_CONFIGS = ("transformer", "", "high_noise_model")
"""Where a folder of either layout may have the config of its own transformer."""


class GivenTransformers(msgspec.Struct, frozen=True):
    """The transformers of a model that come from files of their own."""

    family: Family
    """Follows from them alone."""
    components: dict[ComponentName, Component]


def read_transformers(folder: Path, paths: Sequence[Path]) -> GivenTransformers:
    """Return what takes the place of a folder's transformers.

    Args:
        folder: Of the other components. Its own transformers may be missing.
        paths: One file, or those of Wan2.2 A14B for high and for low noise.

    Raises:
        ModelFolderError: If a file is unusable, or of a model that is not served.
    """
    names: tuple[ComponentName, ...] = ("transformer", "transformer_2")
    if len(paths) == 2 and "low_noise" in paths[0].name and "high_noise" in paths[1].name:
        raise ModelFolderError(
            f"--transformer {paths[0]},{paths[1]}: the first file must be the one for high noise; "
            "exchange them"
        )
    components = {
        name: _read(path, folder) for name, path in zip(names[: len(paths)], paths, strict=True)
    }
    kinds = [
        _kind(path, part.config) for path, part in zip(paths, components.values(), strict=True)
    ]
    if kinds == ["wan2.2-i2v-a14b"]:
        raise ModelFolderError(
            f"--transformer {paths[0]} is one of the two transformers of Wan2.2 A14B; give both, "
            "that for high noise first: --transformer HIGH,LOW"
        )
    if len(kinds) == 2 and kinds != 2 * ["wan2.2-i2v-a14b"]:
        raise ModelFolderError(
            f"--transformer {paths[0]},{paths[1]} has {' and '.join(kinds)}; expected one file, or "
            "the two of Wan2.2 I2V-A14B"
        )
    return GivenTransformers(kinds[0], components)


def _read(path: Path, folder: Path) -> Component:
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
    heads = _stated_heads(folder, _dim(transformer.config))
    return transformer if heads is None else transformer_of(path, stored, heads, strays)


def _stated_heads(folder: Path, dim: int) -> int | None:
    """Return the heads of the folder's own transformer, if it is there and as wide."""
    for name in _CONFIGS:
        path = folder / name / "config.json"
        if path.is_file():
            stated = read_json(path)
            heads = stated.get("num_attention_heads", stated.get("num_heads"))
            if isinstance(heads, int) and heads > 0:
                width = stated.get("dim", heads * (stated.get("attention_head_dim") or 0))
                return heads if width == dim else None
    return None


def _dim(config: dict[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _kind(path: Path, config: dict[str, Any]) -> Family:
    channels, latents = config["in_channels"], config["out_channels"]
    has_image = config["image_dim"] is not None
    if channels == latents == _TI2V_LATENTS and not has_image:
        return "wan2.2-ti2v-5b"
    # The noise, a mask of four frames, and the encoded image.
    if channels == 2 * latents + 4:
        if not has_image:
            return "wan2.2-i2v-a14b"
        return "wan2.1-i2v" if config["pos_embed_seq_len"] is None else "wan2.1-flf2v"
    what = "Wan T2V (text to video)" if channels == latents and not has_image else "another model"
    raise ModelFolderError(
        f"--transformer {path} is a transformer of {what}: it takes {channels} channels and gives "
        f"{latents}; expected one of Wan2.1 I2V or FLF2V, or Wan2.2 I2V-A14B or TI2V-5B"
    )
