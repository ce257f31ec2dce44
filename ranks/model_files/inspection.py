"""`python -m ranks.model_files.inspection PATH`: write what a model is, as JSON."""

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

import msgspec

from broker.wire.model_profile import EightBit, ModelProfile
from ranks.errors import MissingModelError, ModelFolderError
from ranks.model_files.components import Component, ModelFiles
from ranks.model_files.model_report import ComponentReport, ModelFault, ModelReport
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import profile_of
from ranks.model_files.quantization import Quantize
from ranks.model_files.weight_memory import NUM_RANKS, weight_bytes


def main() -> None:
    logging.disable()  # the report has the warnings
    report = inspect(*parse_arguments())
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


def parse_arguments() -> tuple[Path, Path | None, Quantize | None]:
    """Return path, single file and quantization of a model, as the launcher passes them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--transformer", type=Path)
    parser.add_argument("--quantize", choices=get_args(EightBit))
    parser.add_argument("--quantize-skip", type=int, default=0)
    options = parser.parse_args()
    quantize = options.quantize and Quantize(options.quantize, options.quantize_skip)
    return options.path, options.transformer, quantize


def inspect(
    path: Path, transformer: Path | None = None, quantize: Quantize | None = None
) -> ModelReport | ModelFault:
    try:
        return _report(open_model(path, transformer, quantize))
    except ModelFolderError as error:
        return ModelFault(message=str(error), may_appear=isinstance(error, MissingModelError))


def _report(files: ModelFiles) -> ModelReport:
    return ModelReport(
        place=str(files.place),
        layout=files.layout,
        profile=profile_of(files, ModelProfile().name),
        num_heads=files.num_heads,
        components={name: _describe(part) for name, part in files.components.items()},
        weight_bytes={number: weight_bytes(files, number) for number in NUM_RANKS},
        warnings=[
            f"{name}: {stray}" for name, part in files.components.items() for stray in part.strays
        ],
    )


def _describe(component: Component) -> ComponentReport:
    stored = component.weights.values()
    return ComponentReport(
        place=component.place,
        dtypes=sorted({weight.dtype for weight in stored}),
        num_tensors=len(stored),
        num_bytes=sum(weight.num_bytes for weight in stored),
    )


if __name__ == "__main__":
    main()
