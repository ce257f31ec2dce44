"""Checks the LoRAs of a model before a start, in a process of its own."""

import logging
from pathlib import Path

import msgspec

from launcher.lora_options import split_strength
from launcher.options import Options
from launcher.preflight import StartError, UnfitModelError, run_check
from ranks.loras.lora_files import LoraFiles
from ranks.loras.lora_inspection import LoraFault, LoraReport, LoraRequest, decode_lora_report
from ranks.model_files.model_choice import ModelChoice

logger = logging.getLogger("launcher")

_LIMIT_S = 900.0
"""Every file is hashed."""
_NO_LORAS = LoraReport(offered=(), merged=(), warnings=[])


def check_loras(options: Options, model_name: str, model: ModelChoice) -> LoraReport:
    """Return the LoRAs that jobs may take with a model, and those that become part of it.

    Raises:
        UnfitModelError: If one of `--lora` does not fit the model.
        StartError: If `--loras` is no folder.
    """
    if not options.loras and not options.lora:
        return _NO_LORAS
    request = LoraRequest(
        model_path=str(model.path),
        transformers=tuple(map(str, model.transformers)),
        folder=None if options.loras is None else str(folder_for(options.loras, model_name)),
        merged=tuple(map(merged_lora, options.lora)),
    )
    argument = msgspec.json.encode(request).decode()
    output = run_check("ranks.loras.lora_inspection", argument, limit_s=_LIMIT_S, topic="LoRAs")
    report = decode_lora_report(output)
    if isinstance(report, LoraFault):
        raise UnfitModelError(f"--lora: {report.message}")
    for warning in report.warnings:
        logger.warning("model %s: %s", model_name, warning)
    if options.loras is not None:
        names = ", ".join(lora.name for lora in report.offered)
        logger.info("LoRAs that jobs of %s may take: %s", model_name, names or "none")
    return report


def folder_for(folder: str, model_name: str) -> Path:
    """Return the folder of a model's LoRAs: that with its name, if there is one in the folder.

    Raises:
        StartError: If there is no such folder.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise StartError(f"--loras {folder} is no folder; name one with .safetensors files")
    own = path / model_name
    return own if own.is_dir() else path


def merged_lora(entry: str) -> LoraFiles:
    """Return the LoRA of `--lora NAME=FILE@STRENGTH` or `NAME=HIGH,LOW@STRENGTH`."""
    name, _, rest = entry.partition("=")
    files, strength = split_strength(rest)
    paths = tuple(str(Path(path).resolve()) for path in files.split(","))
    return LoraFiles(name=name, paths=paths, strength=strength)
