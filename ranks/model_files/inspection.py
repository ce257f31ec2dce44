"""`python -m ranks.model_files.inspection PATH`: write what a model is, as JSON."""

import argparse
import logging
import sys
from pathlib import Path

import msgspec

from broker.wire.model_profile import ModelProfile
from ranks.errors import MissingModelError, ModelFolderError
from ranks.model_files.components import Component, ModelFiles
from ranks.model_files.memory_estimate import sizes_of
from ranks.model_files.model_report import ComponentReport, ModelFault, ModelReport
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import profile_of
from ranks.model_files.weight_memory import NUM_RANKS, weight_bytes


def main() -> None:
    logging.disable()  # the report has the warnings
    report = inspect(*parse_arguments())
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


def parse_arguments() -> tuple[Path, Path | None]:
    """Return the path and the single file of a model, as the launcher passes them to helpers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--transformer", type=Path)
    options = parser.parse_args()
    return options.path, options.transformer


def inspect(path: Path, transformer: Path | None = None) -> ModelReport | ModelFault:
    try:
        return _report(open_model(path, transformer))
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
        sizes=sizes_of(files),
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
