"""Opens a model: tells its layout from its content, checks it, and finds its weights."""

from collections.abc import Sequence
from pathlib import Path

from ranks.errors import ModelFolderError
from ranks.model_files.components import ModelFiles
from ranks.model_files.diffusers_folder import open_diffusers_folder
from ranks.model_files.original_folder import is_original_folder, open_original_folder
from ranks.model_files.quantization import Quantize, with_quantization
from ranks.model_files.single_file import GivenTransformers, read_transformers
from ranks.model_files.weight_fit import check_shapes


def open_model(
    path: Path, transformers: Sequence[Path] = (), quantize: Quantize | None = None
) -> ModelFiles:
    """Return the components of a model, read from configs and headers only.

    Args:
        path: Its folder.
        transformers: Single files that take the place of the folder's own transformers.
        quantize: How the transformers' weights are quantized as they are loaded.

    Raises:
        MissingModelError: If there is nothing at the path.
        ModelFolderError: If anything is missing, damaged, quantized in a way that is not
            understood, or of a model that is not served.
    """
    try:
        given = read_transformers(path, transformers) if transformers else None
        files = _open_folder(path, given)
        for name, component in files.components.items():
            check_shapes(name, component)
        files = with_quantization(files, quantize)
    except OSError as error:
        raise ModelFolderError(f"model {path} cannot be read: {error}") from error
    return files


def _open_folder(path: Path, given: GivenTransformers | None) -> ModelFiles:
    if not (path / "model_index.json").is_file() and is_original_folder(path):
        return open_original_folder(path, given)
    return open_diffusers_folder(path, given)
