"""`python -m ranks.model_files.inspection PATH`: write what a model is, as JSON."""

import logging
import sys

import msgspec

from broker.wire.model_profile import ModelProfile
from ranks.errors import MissingModelError, ModelFolderError
from ranks.model_files.components import Component, ModelFiles
from ranks.model_files.fitting import needed_by_ranks
from ranks.model_files.memory_estimate import sizes_of
from ranks.model_files.model_choice import ModelChoice, parse_choice
from ranks.model_files.model_report import ComponentReport, ModelFault, ModelReport
from ranks.model_files.profiles import profile_of
from ranks.model_files.weight_memory import NUM_RANKS, weight_bytes


def main() -> None:
    logging.disable()  # the report has the warnings
    report = inspect(parse_choice())
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


def inspect(choice: ModelChoice) -> ModelReport | ModelFault:
    try:
        return _report(choice.open(), choice.is_distilled)
    except ModelFolderError as error:
        return ModelFault(message=str(error), may_appear=isinstance(error, MissingModelError))


def _report(files: ModelFiles, is_distilled: bool) -> ModelReport:
    profile = profile_of(files, ModelProfile().name, is_distilled=is_distilled)
    sizes = sizes_of(files)
    return ModelReport(
        place=str(files.place),
        layout=files.layout,
        profile=profile,
        num_heads=files.num_heads,
        components={name: _describe(part) for name, part in files.components.items()},
        weight_bytes={number: weight_bytes(files, number) for number in NUM_RANKS},
        sizes=sizes,
        jobs=needed_by_ranks(sizes, profile, files.num_heads),
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
