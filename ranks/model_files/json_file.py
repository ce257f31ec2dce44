"""Reads the JSON files of a model folder."""

import json
from pathlib import Path
from typing import Any

from ranks.errors import ModelFolderError
from ranks.model_files.safetensors_header import refuse_lfs_pointer

_MAX_BYTES = 64 << 20
"""The largest, the tokenizer's, has 17 MB."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file in UTF-8, which is all that diffusers reads.

    Raises:
        ModelFolderError: If the file cannot be read or holds no object.
    """
    refuse_lfs_pointer(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelFolderError(f"{path} is larger than {_MAX_BYTES >> 20} MiB")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(
            f"{path} cannot be read as JSON: {error}; download it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} does not contain a JSON object; download it again")
    return content
