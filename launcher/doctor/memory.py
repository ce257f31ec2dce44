"""Checks whether each model fits this machine's devices, and says what is kept in host memory."""

from collections.abc import Iterator

from launcher.doctor.findings import Finding, error, ok, warning
from launcher.model_check import choice_of, inspect_path
from launcher.options import Options
from launcher.preflight import Folders, StartError
from ranks.config import VAE_ITEM_BYTES, DeviceReport
from ranks.errors import UnfitMemoryError
from ranks.model_files.fitting import GroupPlan, decide, describe
from ranks.model_files.model_report import ModelFault, ModelReport
from ranks.offload import parse_offload


def memory_findings(options: Options, folders: Folders, devices: DeviceReport) -> Iterator[Finding]:
    if devices.capacity_bytes is None:
        return
    for model in options.models:
        try:
            report = inspect_path(choice_of(model, folders.model(model), options))
        except StartError:
            continue  # the check of the model says so
        if not isinstance(report, ModelFault):
            yield _check(model.name, report, options, devices)


def _check(name: str, report: ModelReport, options: Options, devices: DeviceReport) -> Finding:
    plan = GroupPlan(
        world_size=options.nproc,
        num_heads=report.num_heads,
        capacity_bytes=devices.capacity_bytes or 0,
        host_capacity_bytes=devices.host_bytes,
        cfg_size=options.cfg_size,
        ulysses_size=options.ulysses_size,
        dit_fsdp=options.dit_fsdp,
        t5_fsdp=options.t5_fsdp,
        vae_parallel=options.vae_parallel is not False,
    )
    offload = None if options.offload is None else parse_offload(options.offload)
    item_bytes = VAE_ITEM_BYTES[options.vae_dtype] if options.vae_dtype else devices.vae_item_bytes
    sizes = report.sizes.with_vae_items(item_bytes)
    fix = f"wan model inspect {report.place} --cards"
    try:
        fit = decide(plan, sizes, report.profile, offload)
    except UnfitMemoryError as fault:
        return error("memory", f"{name}: {fault}", fix)
    text = f"{name}, --offload {fit.offload.text}: {describe(report.profile, fit)}"
    return ok("memory", text) if fit.is_fit else warning("memory", text, fix)
