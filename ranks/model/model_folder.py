"""Checks a model folder before anything is loaded, without importing torch."""

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
"""Folder of each component, and the files it must contain besides its weights."""

WEIGHTED = ("text_encoder", "image_encoder", "transformer", "vae")
"""Components with weights in safetensors files."""


class ModelFolderError(Exception):
    """Raised when a folder is not a usable model; the message says what is wrong and what to do."""


def check_model_folder(folder: Path) -> None:
    """Check that every file of the model is present.

    Raises:
        ModelFolderError: If the folder or a file is missing.
    """
    if not folder.is_dir():
        raise ModelFolderError(
            f"model folder {folder} does not exist; download "
            "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers there, name another folder with --model-path, "
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
    """Check that every weight file has the length its header states; partial downloads do not.

    Raises:
        ModelFolderError: With the names of the damaged files.
    """
    names = [name for part in WEIGHTED for name in _weight_files(folder, part)]
    damaged = [name for name in names if not _is_complete(folder / name)]
    if damaged:
        raise ModelFolderError(
            f"model folder {folder} has damaged weights: {', '.join(damaged)}; remove these files "
            "and download them again"
        )


def num_attention_heads(folder: Path) -> int:
    """Return the transformer's number of attention heads.

    Raises:
        ModelFolderError: If its config does not state a positive number.
    """
    heads = _read_json(folder / "transformer" / "config.json").get("num_attention_heads")
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


def _expected_files(folder: Path) -> list[str]:
    names = [f"{part}/{name}" for part, files in COMPONENTS.items() for name in files]
    return names + [name for part in WEIGHTED for name in _weight_files(folder, part)]


def _weight_files(folder: Path, part: str) -> list[str]:
    stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
    index = folder / part / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [f"{part}/{stem}.safetensors"]
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFolderError(f"{index} has no weight_map; download it again")
    return [f"{part}/{name}" for name in sorted({str(name) for name in weight_map.values()})]


def _is_complete(path: Path) -> bool:
    """Return whether a safetensors file ends where its header says the last tensor ends."""
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
        raise ModelFolderError(
            f"{path} cannot be read as JSON: {error}; download it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} does not contain a JSON object; download it again")
    return content
