"""The limits that a container or a service sets on this process (cgroup v2, or v1)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_UNLIMITED = 1 << 60
"""Where there is no limit, v1 shows a number near 2^63."""


class CgroupLimits(NamedTuple):
    """The tightest limit of this process's cgroup and of those above it; None: no limit."""

    memory_bytes: int | None
    num_cpus: float | None
    num_tasks: int | None
    """Processes and threads together."""


def read_limits(root: Path = Path("/")) -> CgroupLimits:
    """Return the limits; what cannot be read is taken for unlimited.

    Args:
        root: Where `proc` and `sys` lie.
    """
    quotas = [*map(_quota_v2, _files(root, "cpu", "cpu.max")), *_quotas_v1(root)]
    return CgroupLimits(
        memory_bytes=_least(root, "memory", ["memory.max", "memory.limit_in_bytes"]),
        num_cpus=min((quota for quota in quotas if quota is not None), default=None),
        num_tasks=_least(root, "pids", ["pids.max"]),
    )


def num_oom_kills(root: Path = Path("/")) -> int:
    """Return how many processes of this cgroup the kernel has killed for want of memory."""
    names = ("memory.events", "memory.oom_control")
    texts = [text for name in names for text in _files(root, "memory", name)]
    # The first is this process's cgroup, which counts those below it, too.
    lines = [line.split() for text in texts[:1] for line in text.splitlines()]
    return sum(int(words[1]) for words in lines if words[0] == "oom_kill")


def _least(root: Path, controller: str, names: list[str]) -> int | None:
    texts = [text.strip() for name in names for text in _files(root, controller, name)]
    limits = [int(text) for text in texts if text.isdigit()]  # "max" is no limit
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def _quota_v2(text: str) -> float | None:
    quota, period = text.split()
    return None if quota == "max" else int(quota) / int(period)


def _quotas_v1(root: Path) -> Iterator[float]:
    quotas = _files(root, "cpu", "cpu.cfs_quota_us")
    periods = _files(root, "cpu", "cpu.cfs_period_us")
    for quota, period in zip(quotas, periods, strict=False):
        if int(quota) > 0:
            yield int(quota) / int(period)


def _files(root: Path, controller: str, name: str) -> Iterator[str]:
    """Yield a file's contents in this process's cgroup, then in each cgroup above it."""
    for top, path in _cgroups(root, controller):
        folder = top / path.lstrip("/")
        while folder.is_relative_to(top):
            # The root has no limits, and a container may not see its own path.
            with suppress(OSError, ValueError):
                yield (folder / name).read_text(encoding="ascii")
            folder = folder.parent


def _cgroups(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    """Yield the mount point and the path below it, for v2 and for the controller of v1."""
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield mounts, path
        elif controller in controllers.split(","):
            yield mounts / controller, path
