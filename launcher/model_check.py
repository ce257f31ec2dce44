"""Checks the model before a start, in processes of their own: the launcher never imports torch."""

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import structs

from broker.wire.model_profile import ModelProfile
from launcher.helper import read_device_report
from launcher.lora_check import check_loras
from launcher.options import Options
from launcher.preflight import (
    PROBE_LIMIT_S,
    Folders,
    SplitError,
    StartError,
    UnfitModelError,
    run_check,
)
from launcher.served_models import DemoModel, ServedModel
from ranks.config import DeviceReport
from ranks.loras.lora_files import LoraFiles, profile_with
from ranks.model_files.model_choice import ModelChoice
from ranks.model_files.model_report import ModelFault, ModelReport, decode_report
from ranks.model_files.profiles import with_attention
from ranks.model_files.quantization import Quantize

logger = logging.getLogger("launcher")

_DEMO_LIMIT_S = 300.0
_INSPECTION = "ranks.model_files.inspection"
_MOST_WARNINGS = 5


class CheckedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A complete model that groups of this machine serve."""

    place: Path
    transformers: tuple[Path, ...] = ()
    """Files that take the place of the folder's own transformers."""
    profile: ModelProfile
    num_heads: int
    """Attention heads of its transformer."""
    num_groups: int = 1
    loras: tuple[LoraFiles, ...] = ()
    """Those that jobs may take."""
    merged_loras: tuple[LoraFiles, ...] = ()
    """Those that become part of it."""
    warnings: list[str] = []
    """What lies beside the model and is ignored."""


def check_models(options: Options, folders: Folders) -> tuple[CheckedModel, ...]:
    """Return the models of this machine's groups; build demo models that are missing.

    Raises:
        UnfitModelError: If one is incomplete, damaged or of a family that is not served.
        StartError: If there is none at its place, or its heads cannot be split over the ranks.
    """
    return tuple(_checked(model, options, folders) for model in options.models)


def check_model(model: ServedModel, place: Path, options: Options) -> CheckedModel:
    """Check a model without loading it.

    Raises:
        UnfitModelError: If it is incomplete, damaged or of a family that is not served.
        StartError: If there is none at its place, or its heads cannot be split over the ranks.
    """
    choice = choice_of(model, place, options)
    report = inspect_model(choice)
    check_split(options, report.num_heads)
    loras = check_loras(options, model.name, choice)
    profile = structs.replace(report.profile, name=model.name)
    profile = with_attention(profile, options.attention)
    return CheckedModel(
        place=place,
        transformers=choice.transformers,
        profile=profile_with(profile, loras.offered, loras.merged),
        loras=loras.offered,
        merged_loras=loras.merged,
        num_heads=report.num_heads,
        num_groups=model.num_groups,
        warnings=report.warnings,
    )


def choice_of(model: ServedModel, place: Path, options: Options) -> ModelChoice:
    quantize = options.quantize and Quantize(options.quantize, options.quantize_skip)
    return ModelChoice(place, transformer_files(options), quantize, model.is_distilled)


def transformer_files(options: Options) -> tuple[Path, ...]:
    return tuple(Path(file).resolve() for file in options.transformer)


def inspect_model(choice: ModelChoice) -> ModelReport:
    """Return what a model is, from its configs and the headers of its files.

    Raises:
        UnfitModelError: If anything is missing, damaged, or of a model that is not served.
        StartError: If there is nothing at the path.
    """
    match inspect_path(choice):
        case ModelFault() as fault:
            raise (StartError if fault.may_appear else UnfitModelError)(fault.message)
        case ModelReport() as report:
            return report


def inspect_path(choice: ModelChoice) -> ModelReport | ModelFault:
    """Return what a model is, or why it cannot be served.

    Raises:
        StartError: If the inspection itself fails.
    """
    topic = f"model {choice.path}"
    output = run_check(_INSPECTION, *choice.arguments, limit_s=PROBE_LIMIT_S, topic=topic)
    return decode_report(output)


def inspect_devices() -> DeviceReport:
    """Return this machine's devices; takes seconds.

    Raises:
        StartError: If torch cannot use them.
    """
    output = run_check("ranks.device_report", "auto", "1", limit_s=PROBE_LIMIT_S, topic="devices")
    return read_device_report(output)


def check_weights(choice: ModelChoice) -> None:
    """Check that the weights of a complete model fit the models that are made; takes seconds.

    Raises:
        StartError: If a weight is missing, left over or of another shape.
    """
    run_check("ranks.model.weight_trial", *choice.arguments, limit_s=PROBE_LIMIT_S, topic="model")


def check_8bit(options: Options, models: Sequence[CheckedModel]) -> None:
    """Check that the devices can multiply 8-bit numbers as the models need it.

    Raises:
        StartError: If not.
    """
    forms = {model.profile.quantization for model in models} - {None}
    if not forms or options.device == "cpu":
        return
    count = options.nproc * options.num_groups
    run_check(
        *("ranks.device_report", options.device, str(count), *sorted(filter(None, forms))),
        limit_s=PROBE_LIMIT_S,
        topic=f"--device {options.device}",
    )


def check_attention(options: Options) -> None:
    """Check that the devices and the installed packages can compute attention as it is asked for.

    Raises:
        StartError: If not.
    """
    if options.attention == "exact":
        return
    count = options.nproc * options.num_groups
    run_check(
        *("ranks.device_report", options.device, str(count), options.attention),
        limit_s=PROBE_LIMIT_S,
        topic=f"--attention {options.attention}",
    )


def check_split(options: Options, num_heads: int) -> None:
    """Check that some layout uses all ranks, and that a default `ulysses_size` is possible.

    Raises:
        SplitError: If not; the message lists the possible numbers.
    """
    nproc, ulysses_size = options.nproc, options.ulysses_size
    sizes = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
    possible = sorted({*sizes, *(2 * size for size in sizes)})
    if nproc not in possible:
        raise SplitError(
            f"--nproc is {nproc}: the model's {num_heads} attention heads cannot be split over "
            f"{nproc} ranks; possible: {', '.join(map(str, possible))}"
        )
    if ulysses_size is not None and ulysses_size not in sizes:
        raise SplitError(
            f"--ulysses-size is {ulysses_size}: it must divide the model's {num_heads} attention "
            f"heads; possible: {', '.join(map(str, sizes))}"
        )


def _checked(model: ServedModel, options: Options, folders: Folders) -> CheckedModel:
    place = folders.model(model)
    if model.demo is not None and not place.exists():
        _make_demo_model(place, model.demo)
    checked = check_model(model, place, options)
    if checked.warnings:
        logger.warning(
            "model %s: ignored, because they are not part of it: %s",
            place,
            "; ".join(checked.warnings[:_MOST_WARNINGS]),
        )
    return checked


def _make_demo_model(folder: Path, model: DemoModel) -> None:
    run_check(
        *("ranks.demo.build", str(folder), model),
        limit_s=_DEMO_LIMIT_S,
        topic="--demo: building the model",
    )
