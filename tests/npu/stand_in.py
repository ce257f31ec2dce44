"""The stand-in NPU as tests use it: the environment of child processes, and what they log.

The process of the tests never loads it: it would find an NPU where it expects none.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

SITE = Path(__file__).parent / "site"


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a process writes each time that it lets go of unused memory, as after each job."""

    device: int
    foreign_bytes: int
    """The most that it has held on other devices."""
    memory: dict[str, int]
    counts: dict[str, int]
    """How often what has happened since its start."""


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """The compiled stand-in.

    Args:
        library: The extension module.
        operators: A file with the names of the operators that an NPU has.
        functions: A file with the functions of torch_npu that replace torch's.
        log: Where processes write what has happened.
    """

    library: Path
    operators: Path
    functions: Path
    log: Path

    def environment(self, *, devices: int = 8, capacity_mib: int = 4096) -> dict[str, str]:
        """Return what makes a process have NPUs.

        Args:
            devices: How many.
            capacity_mib: Memory of each; every process counts its own use of it only.
        """
        path = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(path),
            "NPU_STAND_IN_LIBRARY": str(self.library),
            "NPU_STAND_IN_OPERATORS": str(self.operators),
            "NPU_STAND_IN_FUNCTIONS": str(self.functions),
            "NPU_STAND_IN_LOG": str(self.log),
            "NPU_STAND_IN_DEVICES": str(devices),
            "NPU_STAND_IN_CAPACITY_MIB": str(capacity_mib),
            # Threads of torch that wait would take the few cores from those that compute.
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def entries(self, pid: int) -> list[LogEntry]:
        """Return what a process has written."""
        path = self.log / f"{pid}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [msgspec.json.decode(line, type=LogEntry) for line in lines]
