"""`wan model inspect PATH`: what a model is, what it lacks, and the memory that it needs."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import structs

from broker.wire.model_profile import EightBit
from launcher.card_table import card_rows
from launcher.model_check import inspect_devices, inspect_path
from launcher.preflight import StartError
from ranks.model_files.model_choice import ModelChoice
from ranks.model_files.model_report import ModelFault, ModelReport
from ranks.model_files.quantization import Quantize

_GIB = 1 << 30


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0 if the model can be served, 1 if not, 2 for invalid options."""
    parser = argparse.ArgumentParser(prog="wan model", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="show what a model is")
    inspect.add_argument("path", metavar="PATH", type=Path, help="its folder")
    inspect.add_argument(
        "--transformer",
        metavar="FILE",
        type=lambda text: [Path(part) for part in text.split(",")],
        default=[],
        help="single file in place of its transformer; HIGH,LOW for the two of Wan2.2 A14B",
    )
    inspect.add_argument(
        "--cards", action="store_true", help="also show which cards it fits, with which options"
    )
    inspect.add_argument("--quantize", choices=get_args(EightBit), help="as launch.py takes it")
    inspect.add_argument("--quantize-skip", metavar="N", type=int, default=0, help="likewise")
    inspect.add_argument("--json", action="store_true", help="write the report as JSON")
    options = parser.parse_args(arguments)
    try:
        quantize = options.quantize and Quantize(options.quantize, options.quantize_skip)
        report = inspect_path(ModelChoice(options.path, tuple(options.transformer), quantize))
        if isinstance(report, ModelReport):
            report = structs.replace(report, devices=inspect_devices())
    except StartError as error:  # the inspection itself did not work
        report = ModelFault(message=str(error), may_appear=False)
    if options.json:
        _write(msgspec.json.encode(report).decode())
    elif isinstance(report, ModelFault):
        _write(f"cannot be served: {report.message}")
    else:
        for row in (*rows(report), *(_card_rows(report) if options.cards else ())):
            _write(row)
    return int(isinstance(report, ModelFault))


def rows(report: ModelReport) -> Iterator[str]:
    yield f"{report.profile.family}, {report.layout} layout: {report.place}"
    yield f"attention heads: {report.num_heads}"
    if form := report.profile.quantization:
        yield f"the blocks of its transformer multiply in {form}"
    yield ""
    yield f"{'component':14} {'tensors':>7} {'GiB':>7}  {'stored as':12} from"
    for name, part in report.components.items():
        dtypes = ", ".join(part.dtypes)
        size = f"{part.num_bytes / _GIB:.2f}"
        yield f"{name:14} {part.num_tensors:7} {size:>7}  {dtypes:12} {part.place}"
    yield ""
    yield from _memory_rows(report)
    for warning in report.warnings:
        yield f"ignored, because it is not part of the model: {warning}"


def _memory_rows(report: ModelReport) -> Iterator[str]:
    profile = report.profile
    if report.devices is not None:
        yield f"this machine: {report.devices.description}"
    yield f"GiB on each rank, for a job of {profile.image_size} with {profile.num_frames} frames:"
    yield f"{'ranks':14} {'weights':>7} {'job':>7}  with dit_fsdp, t5_fsdp, vae_parallel"
    for num_ranks, weights in report.weight_bytes.items():
        needed = report.jobs[num_ranks]
        yield (
            f"{num_ranks:<14} {weights / _GIB:7.2f} {needed.plain_bytes / _GIB:7.2f}  "
            f"{needed.sharded_bytes / _GIB:.2f}"
        )


def _card_rows(report: ModelReport) -> Iterator[str]:
    yield ""
    yield f"{report.profile.num_frames} frames fit, by number of cards and the GB of each, with"
    for num_cards, card_gb, cells in card_rows(report.sizes, report.profile, report.num_heads):
        texts = (f"{size}: {cell.text}" for size, cell in cells.items())
        yield f"{num_cards:<2} x {card_gb:<3} {'; '.join(texts)}"


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
