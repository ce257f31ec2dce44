"""The devices that a server would use: for `launch.py --check`, and for the start of a server."""

import sys
from collections.abc import Sequence
from typing import get_args

import msgspec

from broker.wire.model_profile import Attention, EightBit
from ranks.config import DeviceReport
from ranks.device import (
    Device,
    count_devices,
    find_kind,
    require_8bit,
    require_attention,
    require_devices,
)
from ranks.errors import DeviceError
from ranks.host_resources import num_cpus


def report_devices(wanted: str, count: int, needs: Sequence[str]) -> DeviceReport:
    """Return the devices that a server would use; `needs` are as for `main`.

    Raises:
        DeviceError: If there are too few, or if they cannot do what is needed.
    """
    kind = find_kind(wanted)
    require_devices(kind, count)
    for need in needs:
        if need in get_args(Attention):
            require_attention(kind, msgspec.convert(need, Attention))
        else:
            require_8bit(kind, msgspec.convert(need, EightBit))
    device = Device(kind=kind, index=0)
    return DeviceReport(
        kind=kind,
        description=_describe(device),
        capacity_bytes=device.capacity_bytes() if device.has_own_memory else None,
        host_bytes=device.host_bytes(count),
        vae_item_bytes=device.vae_dtype.itemsize,
    )


def _describe(device: Device) -> str:
    """Return number and size of the devices, as text for people."""
    num_gib = device.capacity_bytes() >> 30
    num_devices = count_devices(device.kind)
    if num_devices is None:
        return f"{num_cpus()} cores, {num_gib} GiB of memory"
    return f"{num_devices} devices, {num_gib} GiB of memory each"


def main() -> int:
    """Print the devices: `python -m ranks.device_report WANTED COUNT [NEED ...]`.

    A need is a form of 8-bit numbers, or what `--attention` names.
    """
    wanted, count, *needs = sys.argv[1:]
    try:
        report = report_devices(wanted, int(count), needs)
    except DeviceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
