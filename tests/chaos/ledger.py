"""The ledger: an append-only file in which stub ranks record what they do.

Each entry is one `write` to a file opened for appending, so neither a kill nor a second writer can
damage it. Times are from CLOCK_BOOTTIME, which all processes share.
"""

import os
import time
from pathlib import Path
from typing import Literal

import msgspec

What = Literal["born", "started", "worked", "ended"]


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One record of a rank."""

    what: What
    at_s: float
    group: str
    epoch: int
    rank: int = 0
    pid: int = 0
    job_id: str = ""
    attempt: int = 0
    survivors: list[int] = []
    """For `started`: ranks of lost attempts of the same job that still run."""

    @property
    def group_epoch(self) -> tuple[str, int]:
        """The group and its epoch."""
        return self.group, self.epoch

    @property
    def lease(self) -> tuple[str, int, int]:
        """Group, epoch and attempt, which together with the job are the lease."""
        return self.group, self.epoch, self.attempt


class Ledger:
    """The ledger file. Each epoch of a group writes through an object of its own."""

    def __init__(self, path: Path, group: str = "", epoch: int = 0) -> None:
        self._path = path
        self._group = group
        self._epoch = epoch

    def write(self, what: What, **details: object) -> None:
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        fields = {"what": what, "at_s": now_s, "group": self._group, "epoch": self._epoch}
        entry = msgspec.convert(fields | details, Entry)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, msgspec.json.encode(entry) + b"\n")
        finally:
            os.close(descriptor)

    def read(self) -> list[Entry]:
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        return [msgspec.json.decode(line, type=Entry) for line in lines]

    def survivors(self, job_id: str) -> list[int]:
        """Return the pids of ranks that still run after losing an attempt of a job."""
        entries = self.read()
        ended = {
            entry.lease for entry in entries if (entry.what, entry.job_id) == ("ended", job_id)
        }
        lost = {
            entry.group_epoch
            for entry in entries
            if (entry.what, entry.job_id) == ("started", job_id) and entry.lease not in ended
        }
        born = [entry for entry in entries if entry.what == "born" and entry.group_epoch in lost]
        return [entry.pid for entry in born if is_running(entry)]

    def pids(self) -> dict[str, dict[int, int]]:
        """Return the pid of each rank in the latest epoch of each group."""
        latest: dict[str, tuple[int, dict[int, int]]] = {}
        for entry in self.read():
            if entry.what == "born":
                epoch, ranks = latest.get(entry.group, (0, {}))
                ranks = {} if entry.epoch != epoch else ranks
                latest[entry.group] = entry.epoch, ranks | {entry.rank: entry.pid}
        return {group: ranks for group, (_, ranks) in latest.items()}


def is_running(born: Entry) -> bool:
    """Whether a rank still runs. A zombie does not: it has no command line."""
    try:
        command = Path(f"/proc/{born.pid}/cmdline").read_bytes()
    except OSError:
        return False
    # The pid may belong to another process by now, but the command line holds the config.
    return f'"epoch":{born.epoch},'.encode() in command
