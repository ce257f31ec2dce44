"""Whether this machine's accelerators, their driver, torch and torch_npu work together."""

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
from launcher.helper import read_device_report, run_helper
from launcher.options import Options
from ranks.config import DeviceReport

_PROBE_LIMIT_S = 120.0
_PIP = f"{sys.executable} -m pip"
_SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"


class _Maker(msgspec.Struct, frozen=True, kw_only=True):
    """How the accelerators of one maker show, whatever torch knows of them."""

    name: str
    kind: str
    devices: str
    driver: Path
    tool: str


_MAKERS = (
    _Maker(
        name="Ascend NPU",
        kind="npu",
        devices="/dev/davinci[0-9]*",
        driver=Path("/usr/local/Ascend/driver/version.info"),
        tool="npu-smi info",
    ),
    _Maker(
        name="NVIDIA GPU",
        kind="cuda",
        devices="/dev/nvidia[0-9]*",
        driver=Path("/proc/driver/nvidia/version"),
        tool="nvidia-smi",
    ),
)


def examine_accelerators(options: Options) -> Iterator[Finding]:
    """Look at drivers, torch and torch_npu, and at the devices that torch sees."""
    present = [maker for maker in _MAKERS if glob.glob(maker.devices)]
    yield from map(_examine_driver, present)
    match = _examine_torch(has_npu=any(maker.kind == "npu" for maker in present))
    yield match
    if match.level == "error":  # torch cannot even be imported
        return
    found = _probe(options, present)
    if isinstance(found, DeviceReport):
        yield from _judge(options, found, present)
        yield _try_devices(options, found, present)
    else:
        yield found


def _examine_driver(maker: _Maker) -> Finding:
    num_devices = len(glob.glob(maker.devices))
    try:
        driver = maker.driver.read_text().splitlines()[0]
    except (OSError, IndexError):
        message = f"{num_devices} {maker.name} in /dev, but no driver: {maker.driver} is missing"
        return error("driver", message, maker.tool)
    return ok("driver", f"{num_devices} {maker.name} in /dev; {driver}")


def _examine_torch(has_npu: bool) -> Finding:
    """Compare torch with torch_npu, which breaks `import torch` where the two do not match."""
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
    if _release(torch_npu) != _release(torch):
        return error(
            "torch",
            f"torch {torch} and torch_npu {torch_npu} do not match: both must be one release",
            f"{_PIP} install 'torch_npu=={_release(torch)}.*'"
            if has_npu
            else f"{_PIP} uninstall torch_npu",
        )
    return ok("torch", f"torch {torch} and torch_npu {torch_npu}")


def _probe(options: Options, present: list[_Maker]) -> DeviceReport | Finding:
    """Have a process of its own count the devices: the launcher never imports torch."""
    wanted = f"--device {options.device}"
    count = options.nproc * options.groups
    try:
        answer = run_helper("ranks.device", options.device, str(count), limit_s=_PROBE_LIMIT_S)
    except subprocess.TimeoutExpired:
        return error("device", f"{wanted}: torch does not answer within {_PROBE_LIMIT_S:.0f} s")
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        return error("device", f"{wanted}: {lines[-1]}", _mend(present))
    return read_device_report(answer.stdout)


def _judge(options: Options, found: DeviceReport, present: list[_Maker]) -> Iterator[Finding]:
    text = f"{found.kind}: {found.description}"
    if present and options.device == "auto" and found.kind == "cpu":
        message = f"torch sees none of the {present[0].name} here: the ranks would use the {text}"
        yield warning("device", message, _mend(present))
    else:
        yield ok("device", text)


def _try_devices(options: Options, found: DeviceReport, present: list[_Maker]) -> Finding:
    """Have ranks join, compute and exchange on every device, as those of a server would."""
    with tempfile.TemporaryDirectory(prefix="wan-trial-") as folder:
        failures = asyncio.run(try_groups(options, found.kind, Path(folder)))
    if failures:
        return error("trial", "; ".join(failures), _mend(present))
    count = options.nproc * options.groups
    return ok("trial", f"{count} ranks have computed on {found.kind} and reached each other")


def _mend(present: list[_Maker]) -> str:
    """Return what most often helps when torch does not see the devices that there are."""
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
    """Return the three numbers that a version begins with."""
    return ".".join(version.partition("+")[0].split(".")[:3])
