"""Reads the components of original files: their weights under our names, and their configs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from ranks.errors import ModelFolderError
from ranks.model_files.components import Component
from ranks.model_files.original_configs import (
    image_encoder_config,
    text_encoder_config,
    transformer_config,
)
from ranks.model_files.original_names import (
    Names,
    image_encoder_names,
    text_encoder_names,
    transformer_names,
)
from ranks.model_files.original_vae import vae_config, vae_names
from ranks.model_files.torch_file import read_torch_file
from ranks.model_files.weight_files import StoredWeight

Stored = Mapping[str, StoredWeight]

_NEIGHBOURS = {
    "vace_": "Wan VACE",
    "face_": "Wan Animate",
    "motion_encoder.": "Wan Animate",
    "pose_patch_embedding.": "Wan Animate",
    "audio_": "Wan S2V (speech to video)",
    "casual_audio_encoder.": "Wan S2V (speech to video)",
    "ref_conv.": "Wan Fun",
    "control_adapter.": "Wan Fun",
}
"""Models whose transformers have more than ours, by how the names of these weights begin."""


def read_transformer(
    place: Path, stored: Stored, num_heads: int | None, strays: list[str]
) -> Component:
    """Return a transformer.

    Args:
        place: Its folder or file.
        stored: Its weights by their original names.
        num_heads: Attention heads, if a config states them.
        strays: What lies beside them.

    Raises:
        ModelFolderError: If it is of another model.
    """
    for name in stored:
        for start, model in _NEIGHBOURS.items():
            if name.startswith(start):
                raise ModelFolderError(f"{place} holds {name}, a weight of {model}")
    config = _derived(
        place, "a transformer of Wan", lambda shapes: transformer_config(shapes, num_heads), stored
    )
    weights = _renamed(place, "the transformer", stored, transformer_names)
    return Component(place=str(place), config=config, weights=weights, strays=strays)


def read_text_encoder(path: Path) -> Component:
    """Return UMT5.

    Raises:
        ModelFolderError: If the file is damaged or holds anything else.
    """
    stored = read_torch_file(path)
    config = _derived(path, "UMT5", text_encoder_config, stored)
    weights = _renamed(path, "UMT5", stored, text_encoder_names)
    return Component(place=str(path), config=config, weights=weights)


def read_image_encoder(path: Path) -> Component:
    """Return the visual tower of open-CLIP.

    Raises:
        ModelFolderError: If the file is damaged or holds anything else.
    """
    stored = read_torch_file(path)
    config = _derived(path, "open-CLIP", image_encoder_config, stored)
    weights = _renamed(path, "open-CLIP", stored, image_encoder_names)
    return Component(place=str(path), config=config, weights=weights)


def read_vae(path: Path) -> Component:
    """Return the VAE of Wan2.1 or Wan2.2.

    Raises:
        ModelFolderError: If the file is damaged or holds anything else.
    """
    stored = read_torch_file(path)
    config = _derived(path, "a VAE of Wan", vae_config, stored)

    def names(name: str) -> Names | None:
        return vae_names(name, config["num_res_blocks"], config["is_residual"])

    weights = _renamed(path, "the VAE", stored, names)
    return Component(place=str(path), config=config, weights=weights)


def _derived(
    place: Path,
    what: str,
    derive: Callable[[dict[str, tuple[int, ...]]], dict[str, Any]],
    stored: Stored,
) -> dict[str, Any]:
    try:
        return derive({name: where.shape for name, where in stored.items()})
    except (ArithmeticError, LookupError, ValueError) as error:
        raise ModelFolderError(
            f"{place} does not hold the weights of {what} (it lacks or misshapes {error}); is it "
            "the right model? Download it again"
        ) from error


def _renamed(
    place: Path, what: str, stored: Stored, names: Callable[[str], Names | None]
) -> dict[str, StoredWeight]:
    weights: dict[str, StoredWeight] = {}
    for name, where in stored.items():
        own = names(name)
        if own is None:
            raise ModelFolderError(
                f"{place} holds {name}, which is no weight of {what}; is it the right model? "
                "Download it again"
            )
        weights |= _parts(where, own)
    return weights


def _parts(where: StoredWeight, names: Names) -> dict[str, StoredWeight]:
    """Return the weights in a tensor, below one another."""
    if not names:
        return {}
    # The embeddings of open-CLIP have sides of length 1 in front.
    sides = where.shape
    if names[0].startswith("embeddings.") and len(sides) == 3:
        sides = sides[2:] if names[0].endswith("class_embedding") else sides[1:]
    rows = sides[0] // len(names) if sides else 0
    return {
        name: structs.replace(where, shape=(rows, *sides[1:]), first_row=number * rows)
        for number, name in enumerate(names)
    }
