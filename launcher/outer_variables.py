"""Environment variables that were set for other programs: ignored where possible, else refused."""

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

IGNORED = (
    # Python would strip the checks of invariants, or turn a library's warning into a failure.
    *("PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT"),
    "OMP_NUM_THREADS",  # each rank sets its own share of the processors
    "TORCH_DEVICE_BACKEND_AUTOLOAD",  # 0 would hide NPUs from torch
    # A job launcher's ranks and addresses; ours come from the launcher.
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
)
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME")


def ignore_outer_variables(environ: MutableMapping[str, str]) -> list[str]:
    """Remove what must not reach any process; return the names."""
    return [name for name in IGNORED if environ.pop(name, None) is not None]


def unusable_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence on each variable with which no rank could join its group."""
    present = {name for _, name in socket.if_nameindex()}
    for variable in _INTERFACES:
        wanted = environ.get(variable)
        if wanted and not any(_matches(name, variable, wanted) for name in present):
            yield (
                f"{variable} is {wanted!r}, which matches no network interface of this machine "
                f"({', '.join(sorted(present))}); unset it, or set it to lo"
            )


def provide_temporary_folder(folder: Path) -> None:
    """Have temporary files written to a folder if no other may be, as with a read-only root."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = str(folder)


def _matches(interface: str, variable: str, wanted: str) -> bool:
    """Whether a library takes an interface for one of those wanted.

    Source:
        NCCL and HCCL: a list of prefixes, of names after `=`, all others after `^`. Gloo: names.
    """
    is_excluded = wanted.startswith("^")
    listed = wanted.removeprefix("^")
    is_exact = listed.startswith("=") or variable == "GLOO_SOCKET_IFNAME"
    names = [name.strip() for name in listed.removeprefix("=").split(",")]
    found = interface in names if is_exact else interface.startswith(tuple(names))
    return found is not is_excluded
