"""Processor time and memory of a process, from `/proc`."""

import os
import time
from pathlib import Path
from typing import NamedTuple

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Processor time of a process up to a moment."""

    at_s: float
    event_loop_s: float
    """Main thread."""
    sockets_s: float
    """ZeroMQ's threads."""
    journal_s: float
    """All other threads."""

    @classmethod
    def of(cls, pid: int) -> "Usage":
        spent = {"main": 0.0, "sockets": 0.0, "journal": 0.0}
        for task in Path(f"/proc/{pid}/task").iterdir():
            head, _, fields = (task / "stat").read_text().rpartition(")")
            kind = "main" if task.name == str(pid) else "journal"
            kind = "sockets" if "(ZMQ" in head else kind
            user, system = fields.split()[11:13]
            spent[kind] += (int(user) + int(system)) / _TICKS_A_SECOND
        return cls(time.monotonic(), *spent.values())

    def cores_since(self, before: "Usage") -> dict[str, float]:
        """Return the cores used by each kind of thread since an earlier moment."""
        taken_s = self.at_s - before.at_s
        names = ("event loop", "ZeroMQ", "journal")
        spent = [now - then for now, then in zip(self[1:], before[1:], strict=True)]
        return {
            "broker, cores": round(sum(spent) / taken_s, 3),
            **{
                f"of that {name}": round(used / taken_s, 3)
                for name, used in zip(names, spent, strict=True)
            },
        }


def memory_bytes(pid: int, field: str = "VmRSS") -> int:
    """Return resident memory: the field `VmRSS` is the current, `VmHWM` the peak value."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"the kernel says nothing of {field}")
