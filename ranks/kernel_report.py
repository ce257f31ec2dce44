"""Which kernels a rank computes with, as text: for the group's log and for `launch.py --check`."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import structs

from broker.wire.model_profile import Attention
from ranks.attention_choice import NAMES, AttentionKernels
from ranks.config import KernelReport
from ranks.device import Device, open_device
from ranks.device_report import report_devices
from ranks.environment import set_environment_defaults
from ranks.errors import DeviceError
from ranks.model.kernels import FORM_NAMES


def kernel_report(device: Device) -> KernelReport:
    return KernelReport(
        element_wise=FORM_NAMES[device.kernels],
        attention=NAMES[device.attention],
        is_slow=device.has_own_memory and device.kernels == "plain",
    )


def require_same_attention(own: AttentionKernels, of_rank_0: AttentionKernels) -> None:
    """Check that every rank has chosen the same kernels: they round differently.

    Raises:
        DeviceError: On a rank that has not.
    """
    if own != of_rank_0:
        raise DeviceError(
            f"attention is computed by {NAMES[own]} here, but by {NAMES[of_rank_0]} on rank 0: "
            "all GPUs of a group must be of one kind, with the same packages"
        )


def main() -> int:
    """Print what `python -m ranks.device_report` does, and the kernels; for the same arguments."""
    wanted, count, *needs = sys.argv[1:]
    attention = next((need for need in needs if need in get_args(Attention)), "exact")
    with tempfile.TemporaryDirectory(prefix="wan-kernels-") as folder:
        set_environment_defaults(Path(folder))  # kernels are compiled there
        try:
            devices = report_devices(wanted, int(count), needs)
            device = open_device(wanted, 0, 1, msgspec.convert(attention, Attention))
        except DeviceError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        device = replace(device, kernels=device.choose_kernels())
    report = structs.replace(devices, kernels=kernel_report(device))
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
