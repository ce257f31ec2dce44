"""Reads a model folder in the layout of diffusers, and checks it before anything is loaded."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from ranks.errors import MissingModelError, ModelFolderError
from ranks.model_files.components import WEIGHTED, Component, ComponentName, ModelFiles
from ranks.model_files.json_file import read_json
from ranks.model_files.model_kinds import (
    read_boundary_ratio,
    recognise_family,
    refuse_other_layout,
    refuse_other_model,
)
from ranks.model_files.safetensors_header import refuse_lfs_pointer
from ranks.model_files.single_file import GivenTransformers
from ranks.model_files.weight_files import find_weights, weight_file_names

logger = logging.getLogger(__name__)

PROCESSOR = "image_processor/preprocessor_config.json"
_VOCABULARIES = ("tokenizer.json", "spiece.model")
"""A tokenizer reads the first that is there."""

_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.ckpt", "*.gguf")


def check_model_folder(folder: Path) -> None:
    """Check that the folder holds a model that is served, whole and in plain weights.

    Names, shapes and dtypes are read from headers. Whether they fit the configs is checked where
    the model is made.

    Raises:
        MissingModelError: If there is no such folder, or nothing in it.
        ModelFolderError: If anything is missing, damaged, quantized or of another model.
    """
    open_diffusers_folder(folder)


def open_diffusers_folder(folder: Path, given: GivenTransformers | None = None) -> ModelFiles:
    """Return the components of a folder, which is checked as a whole.

    Args:
        folder: The folder.
        given: Take the place of its transformers, which may be missing.

    Raises:
        MissingModelError: As `check_model_folder` does, and so is `ModelFolderError`.
    """
    _refuse_missing(folder)
    refuse_other_layout(folder)
    family = recognise_family(folder) if given is None else given.family
    components = {} if given is None else dict(given.components)
    parts = WEIGHTED[family]
    own_parts = [part for part in parts if part not in components]
    _refuse_incomplete(folder, own_parts)
    check_tokenizer(folder / "tokenizer")
    _check_scheduler(folder / "scheduler" / "scheduler_config.json")
    configs = {part: component.config for part, component in components.items()}
    configs |= {part: read_json(folder / part / "config.json") for part in own_parts}
    refuse_other_model(_named(folder, given), family, configs)
    has_images = "image_encoder" in parts
    if has_images:
        side = read_json(folder / "image_encoder" / "config.json").get("image_size")
        check_processor(folder / PROCESSOR, side)
    components |= {part: read_component(folder / part) for part in own_parts}
    _warn_of_strays(folder, components)
    return ModelFiles(
        place=folder,
        family=family,
        components=components,
        tokenizer=folder / "tokenizer",
        image_processor=folder / "image_processor" if has_images else None,
        boundary_ratio=read_boundary_ratio(folder) if "transformer_2" in parts else None,
    )


def _named(folder: Path, given: GivenTransformers | None) -> str:
    if given is None:
        return str(folder)
    return f"{folder} with the transformer {given.components['transformer'].place}"


def _warn_of_strays(folder: Path, components: dict[ComponentName, Component]) -> None:
    strays = [f"{part}/{name}" for part, found in components.items() for name in found.strays]
    if strays:
        logger.warning(
            "model folder %s: ignored, because they are not part of the model: %s",
            folder,
            _some(strays),
        )


def read_component(folder: Path) -> Component:
    """Return a component in a folder of its own, as diffusers and transformers save it.

    Raises:
        ModelFolderError: If a file is missing or damaged, or the weights are quantized.
    """
    found = find_weights(folder)
    return Component(
        place=str(folder),
        config=read_json(folder / "config.json"),
        weights=found.weights,
        strays=found.strays,
    )


def num_attention_heads(folder: Path) -> int:
    """Return the transformer's number of attention heads.

    Raises:
        ModelFolderError: If its config does not state a positive number.
    """
    heads = read_json(folder / "transformer" / "config.json").get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        raise ModelFolderError(
            f"{folder}/transformer/config.json: num_attention_heads is {heads!r}; "
            "expected a whole number from 1 up; download the file again"
        )
    return heads


def demo_version() -> str:
    # When the demo's code changes, the model is built again.
    sources = sorted((Path(__file__).parents[1] / "demo").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def _refuse_missing(folder: Path) -> None:
    if folder.is_file():
        raise ModelFolderError(
            f"--model-path {folder} is a file; expected the folder of a whole model in the layout "
            "of diffusers"
        )
    # A file system that is not mounted yet is an empty folder.
    if not folder.is_dir() or not any(folder.iterdir()):
        state = "is empty" if folder.is_dir() else "does not exist"
        raise MissingModelError(
            f"model folder {folder} {state}; download "
            "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers there, name another folder with --model-path, "
            "or try the server with --demo"
        )


def _refuse_incomplete(folder: Path, parts: Sequence[ComponentName]) -> None:
    configs = ["tokenizer/tokenizer_config.json", *(f"{part}/config.json" for part in parts)]
    if "image_encoder" in parts:
        configs.append(PROCESSOR)
    missing = [name for name in configs if not (folder / name).is_file()]
    for part in parts:
        if f"{part}/config.json" not in missing:
            missing += _missing_weights(folder / part)
    if missing:
        raise ModelFolderError(
            f"model folder {folder} is incomplete; missing: {_some(missing)}; "
            "download it again, or try the server with --demo"
        )


def _missing_weights(component: Path) -> list[str]:
    names = weight_file_names(component)
    missing = [f"{component.name}/{name}" for name in names if not (component / name).is_file()]
    if len(names) == len(missing) == 1:
        others = [path.name for pattern in _OTHER_WEIGHTS for path in component.glob(pattern)]
        if others:
            missing[0] += f" (found {_some(sorted(others))}, which is not read)"
    return missing


def check_tokenizer(tokenizer: Path) -> None:
    """Check the folder of a tokenizer.

    Raises:
        ModelFolderError: If it is incomplete, or not the one of UMT5.
    """
    found = [tokenizer / name for name in _VOCABULARIES if (tokenizer / name).is_file()]
    if not found:
        raise ModelFolderError(
            f"{tokenizer} has neither {' nor '.join(_VOCABULARIES)}; download it again"
        )
    for path in found:
        refuse_lfs_pointer(path)
    if found[0].suffix == ".json":
        read_json(found[0])
    name = read_json(tokenizer / "tokenizer_config.json").get("tokenizer_class")
    if not str(name).startswith("T5Tokenizer"):
        raise ModelFolderError(f"{tokenizer} is a {name}; expected the T5Tokenizer of UMT5")


def check_processor(path: Path, expected: object) -> None:
    """Check what prepares images for an encoder that expects squares of a side.

    Raises:
        ModelFolderError: If it is of another encoder.
    """
    config = read_json(path)
    name = config.get("image_processor_type")
    # Files of older libraries have another name for it, or none.
    if name is not None and not str(name).startswith("CLIPImageProcessor"):
        raise ModelFolderError(f"{path} is of a {name}; expected a CLIPImageProcessor")
    crop = config.get("crop_size")
    side = crop.get("height") if isinstance(crop, dict) else crop
    if side != expected:
        raise ModelFolderError(
            f"{path}: crop_size is {side!r}; the image encoder expects images of {expected!r} px"
        )


def _check_scheduler(config: Path) -> None:
    # The schedule is the job's. Only what the model predicts is not a matter of choice.
    if not config.is_file():
        return
    found = read_json(config).get("prediction_type", "flow_prediction")
    if found != "flow_prediction":
        raise ModelFolderError(
            f"{config}: prediction_type is {found!r}; expected a model trained for flow_prediction"
        )


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
