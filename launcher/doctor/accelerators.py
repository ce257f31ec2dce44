"""Checks that accelerators, their driver, torch and torch_npu work together."""

import asyncio
import glob
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from launcher.doctor.findings import Finding, error, ok, warning
from launcher.doctor.group_trial import try_groups
from launcher.doctor.memory import memory_findings
from launcher.helper import read_device_report, run_helper
from launcher.options import Options
from launcher.preflight import Folders
from ranks.config import DeviceReport, KernelReport

_PROBE_LIMIT_S = 120.0
_PIP = f"{sys.executable} -m pip"
_SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"


class _Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """How to find a vendor's accelerators without torch."""

    name: str
    kind: str
    devices: str
    driver: Path
    tool: str


_VENDORS = (
    _Vendor(
        name="Ascend NPU",
        kind="npu",
        devices="/dev/davinci[0-9]*",
        driver=Path("/usr/local/Ascend/driver/version.info"),
        tool="npu-smi info",
    ),
    _Vendor(
        name="NVIDIA GPU",
        kind="cuda",
        devices="/dev/nvidia[0-9]*",
        driver=Path("/proc/driver/nvidia/version"),
        tool="nvidia-smi",
    ),
)


def accelerator_findings(options: Options, folders: Folders) -> Iterator[Finding]:
    present = [vendor for vendor in _VENDORS if glob.glob(vendor.devices)]
    yield from map(_check_driver, present)
    torch = _check_torch(has_npu=any(vendor.kind == "npu" for vendor in present))
    yield torch
    if torch.level == "error":  # torch cannot even be imported
        return
    devices = _count_devices(options, present)
    if isinstance(devices, DeviceReport):
        yield _check_kind(options, devices, present)
        yield from memory_findings(options, folders, devices)
        if devices.kernels is not None:
            yield _check_kernels(devices.kernels)
        yield _try_devices(options, devices, present)
    else:
        yield devices


def _check_driver(vendor: _Vendor) -> Finding:
    num_devices = len(glob.glob(vendor.devices))
    try:
        driver = vendor.driver.read_text().splitlines()[0]
    except (OSError, IndexError):
        message = f"{num_devices} {vendor.name} in /dev, but no driver: {vendor.driver} is missing"
        return error("driver", message, vendor.tool)
    return ok("driver", f"{num_devices} {vendor.name} in /dev; {driver}")


def _check_torch(has_npu: bool) -> Finding:
    torch, torch_npu = _version("torch"), _version("torch_npu")
    if torch is None:
        return error("torch", "torch is not installed", f"{_PIP} install -c constraints.txt .")
    if torch_npu is None and has_npu:
        return error(
            "torch",
            f"torch {torch} alone cannot use an Ascend NPU: torch_npu is not installed",
            f"{_PIP} install -c constraints.txt -e '.[npu]'",
        )
    if torch_npu is None:
        return ok("torch", f"torch {torch}")
    # If the releases differ, `import torch` fails.
    if _release(torch_npu) != _release(torch):
        return error(
            "torch",
            f"torch {torch} and torch_npu {torch_npu} do not match: both must be one release",
            f"{_PIP} install 'torch_npu=={_release(torch)}.*'"
            if has_npu
            else f"{_PIP} uninstall torch_npu",
        )
    return ok("torch", f"torch {torch} and torch_npu {torch_npu}")


def _count_devices(options: Options, present: list[_Vendor]) -> DeviceReport | Finding:
    # In a helper process, because the launcher never imports torch.
    flag = f"--device {options.device}"
    count = options.nproc * options.num_groups
    arguments = ("ranks.kernel_report", options.device, str(count), options.attention)
    try:
        answer = run_helper(*arguments, limit_s=_PROBE_LIMIT_S)
    except subprocess.TimeoutExpired:
        return error("device", f"{flag}: torch did not answer within {_PROBE_LIMIT_S:.0f} s")
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        fix = None if "SageAttention" in lines[-1] else _fix(present)
        return error("device", f"{flag}: {lines[-1]}", fix)
    return read_device_report(answer.stdout)


def _check_kind(options: Options, devices: DeviceReport, present: list[_Vendor]) -> Finding:
    text = f"{devices.kind}: {devices.description}"
    if present and options.device == "auto" and devices.kind == "cpu":
        message = (
            f"torch sees no {present[0].name}, though /dev has some: ranks would use the {text}"
        )
        return warning("device", message, _fix(present))
    return ok("device", text)


def _check_kernels(kernels: KernelReport) -> Finding:
    text = f"element-wise: {kernels.element_wise}; attention: {kernels.attention}"
    if kernels.is_slow:
        return warning("kernels", f"{text}; no fused kernels work here, so steps are slower")
    return ok("kernels", text)


def _try_devices(options: Options, devices: DeviceReport, present: list[_Vendor]) -> Finding:
    with tempfile.TemporaryDirectory(prefix="wan-trial-") as folder:
        failures = asyncio.run(try_groups(options, devices.kind, Path(folder)))
    if failures:
        return error("trial", "; ".join(failures), _fix(present))
    count = options.nproc * options.num_groups
    return ok("trial", f"{count} ranks computed on {devices.kind} and exchanged results")


def _fix(present: list[_Vendor]) -> str:
    """Return what most often helps when torch does not see a device."""
    if not present:
        return "python launch.py --device cpu"
    if present[0].kind == "npu":
        return f"{_SET_ENV} && {present[0].tool}"
    if "+cpu" in (_version("torch") or ""):
        return f"{_PIP} install --force-reinstall torch=={_release(_version('torch') or '')}"
    return present[0].tool


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _release(version: str) -> str:
    return ".".join(version.partition("+")[0].split(".")[:3])
