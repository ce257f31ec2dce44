"""`python -m ranks.loras.lora_inspection REQUEST`: write which LoRAs a model can take, as JSON."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ranks.errors import ModelFolderError
from ranks.loras.lora_files import LoraFiles, changes_of, find_in_folder, unused_names
from ranks.model_files.components import ModelFiles
from ranks.model_files.opened_model import open_model


class LoraRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A model, and the LoRAs that it is to take."""

    model_path: str
    transformers: tuple[str, ...] = ()
    folder: str | None = None
    """Whose LoRAs jobs may take."""
    merged: tuple[LoraFiles, ...] = ()
    """Those that become part of the model."""


class LoraReport(msgspec.Struct, frozen=True, kw_only=True, tag="loras"):
    """The LoRAs with their hashes."""

    offered: tuple[LoraFiles, ...]
    merged: tuple[LoraFiles, ...]
    warnings: list[str]
    """What is left out: whole files of the folder, or tensors that have no place in the model."""


class LoraFault(msgspec.Struct, frozen=True, kw_only=True, tag="fault"):
    """Why a LoRA cannot become part of the model."""

    message: str


def decode_lora_report(output: str) -> LoraReport | LoraFault:
    # Libraries may write warnings of their own to standard output before it.
    return msgspec.json.decode(output.splitlines()[-1], type=LoraReport | LoraFault)


def main() -> None:
    logging.disable()  # the report has the warnings
    request = msgspec.json.decode(sys.argv[1], type=LoraRequest)
    sys.stdout.write(msgspec.json.encode(inspect_loras(request)).decode() + "\n")


def inspect_loras(request: LoraRequest) -> LoraReport | LoraFault:
    try:
        transformers = list(map(Path, request.transformers))
        model = open_model(Path(request.model_path), transformers)
        warnings: list[str] = []
        merged = [_checked(lora, model, warnings) for lora in request.merged]
    except ModelFolderError as error:
        return LoraFault(message=str(error))
    found, faults = ([], []) if request.folder is None else find_in_folder(Path(request.folder))
    offered = _fitting(found, model, warnings)
    return LoraReport(offered=tuple(offered), merged=tuple(merged), warnings=[*faults, *warnings])


def _fitting(loras: Sequence[LoraFiles], model: ModelFiles, warnings: list[str]) -> list[LoraFiles]:
    fitting = []
    for lora in loras:
        try:
            fitting.append(_checked(lora, model, warnings))
        except ModelFolderError as error:
            warnings.append(str(error))
    return fitting


def _checked(lora: LoraFiles, model: ModelFiles, warnings: list[str]) -> LoraFiles:
    unused = unused_names(changes_of(lora, model))
    identified = lora.identified()
    if unused:
        warnings.append(f"LoRA {lora.name}: the model has no place for {', '.join(unused)}")
    return identified


if __name__ == "__main__":
    main()
