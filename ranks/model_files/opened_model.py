"""Opens a model: tells its layout from its content, checks it, and finds its weights."""

from pathlib import Path

from ranks.model_files.components import ModelFiles
from ranks.model_files.diffusers_folder import open_diffusers_folder


def open_model(path: Path, transformer: Path | None = None) -> ModelFiles:
    """Return the components of a model, read from configs and headers only.

    Args:
        path: Its folder.
        transformer: A single file that takes the place of the folder's own transformer.

    Raises:
        MissingModelError: If there is nothing at the path.
        ModelFolderError: If anything is missing, damaged, quantized, or of a model that is not
            served.
    """
    return open_diffusers_folder(path)
