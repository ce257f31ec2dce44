"""What a model folder must hold, checked by file names alone before anything is loaded."""

import hashlib
import json
from pathlib import Path
from typing import Any

COMPONENTS: dict[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer_config.json",),
    "text_encoder": ("config.json",),
    "image_encoder": ("config.json",),
    "image_processor": ("preprocessor_config.json",),
    "transformer": ("config.json",),
    "vae": ("config.json",),
}
"""Each component's folder and the files it must hold beside its weights."""

WEIGHTED = ("text_encoder", "image_encoder", "transformer", "vae")
"""Components with weights in safetensors files."""


class ModelFolderError(Exception):
    """Raised when a folder cannot be a model of this server; the message names what is missing."""


def check_model_folder(folder: Path) -> None:
    """Refuse a folder in which a part of the model is missing.

    Raises:
        ModelFolderError: With the missing part and what to do about it.
    """
    if not folder.is_dir():
        raise ModelFolderError(
            f"model folder {folder} does not exist; download "
            "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers there, name another with --model-path, "
            "or try the server with --demo"
        )
    if not (folder / "model_index.json").is_file():
        raise ModelFolderError(
            f"model folder {folder} has no model_index.json; it must be in the layout of diffusers "
            "(the repository whose name ends in -Diffusers); --demo needs no model"
        )
    missing = [name for name in _expected_files(folder) if not (folder / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"model folder {folder} is incomplete; missing: {', '.join(missing)}; "
            "download it again, or try the server with --demo"
        )


def check_weights(folder: Path) -> None:
    """Refuse weights that are shorter than their own header says, as after half a download.

    Raises:
        ModelFolderError: With the files to fetch again.
    """
    names = [name for part in WEIGHTED for name in _weight_files(folder, part)]
    broken = [name for name in names if not _is_whole(folder / name)]
    if broken:
        raise ModelFolderError(
            f"model folder {folder} has damaged weights: {', '.join(broken)}; remove these files "
            "and download them again"
        )


def num_attention_heads(folder: Path) -> int:
    """Return the number of attention heads of the transformer.

    Raises:
        ModelFolderError: If its config does not tell.
    """
    heads = _read_json(folder / "transformer" / "config.json").get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        raise ModelFolderError(
            f"{folder}/transformer/config.json: num_attention_heads is {heads!r}; "
            "expected a whole number"
        )
    return heads


def demo_version() -> str:
    """Return a name for what the demo model's code makes, so that a changed one is made anew."""
    sources = sorted((Path(__file__).parents[1] / "demo").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def _expected_files(folder: Path) -> list[str]:
    names = [f"{part}/{name}" for part, files in COMPONENTS.items() for name in files]
    return names + [name for part in WEIGHTED for name in _weight_files(folder, part)]


def _weight_files(folder: Path, part: str) -> list[str]:
    """Return the files that hold a component's weights: those of its index, or the only one."""
    stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
    index = folder / part / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [f"{part}/{stem}.safetensors"]
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFolderError(f"{index} has no weight_map; download it again")
    return [f"{part}/{name}" for name in sorted({str(name) for name in weight_map.values()})]


def _is_whole(path: Path) -> bool:
    """Return whether a safetensors file ends where its header says that the last tensor ends."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > path.stat().st_size:
                return False
            header = json.loads(file.read(header_bytes))
        ends = [part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + header_bytes + max(ends, default=0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} holds no JSON object")
    return content
