"""The ledger: an append-only file in which stub ranks write down what they really do.

Each entry is one `write` to a file opened for appending, so that neither a kill nor a second writer
can damage it. Times are those of CLOCK_BOOTTIME, which all processes share.
"""

import os
import time
from pathlib import Path
from typing import Literal

import msgspec

What = Literal["born", "started", "worked", "ended"]


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a rank has done."""

    what: What
    at_s: float
    group: str
    epoch: int
    rank: int = 0
    pid: int = 0
    job_id: str = ""
    attempt: int = 0
    survivors: list[int] = []
    """Of `started`: the processes of lost attempts at the same job that still live."""

    @property
    def life(self) -> tuple[str, int]:
        """Which life of which group this is."""
        return self.group, self.epoch

    @property
    def run(self) -> tuple[str, int, int]:
        """Which run of the job this is."""
        return self.group, self.epoch, self.attempt


class Ledger:
    """The ledger, for one life of a group to write and for anybody to read."""

    def __init__(self, path: Path, group: str = "", epoch: int = 0) -> None:
        self._path = path
        self._group = group
        self._epoch = epoch

    def write(self, what: What, **details: object) -> None:
        """Add an entry."""
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        told = {"what": what, "at_s": now_s, "group": self._group, "epoch": self._epoch}
        entry = msgspec.convert(told | details, Entry)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, msgspec.json.encode(entry) + b"\n")
        finally:
            os.close(descriptor)

    def read(self) -> list[Entry]:
        """Return all entries, in the order in which they were written."""
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        return [msgspec.json.decode(line, type=Entry) for line in lines]

    def survivors(self, job_id: str) -> list[int]:
        """Return the living processes of groups that have lost an attempt at a job."""
        entries = self.read()
        ended = {entry.run for entry in entries if (entry.what, entry.job_id) == ("ended", job_id)}
        lost = {
            entry.life
            for entry in entries
            if (entry.what, entry.job_id) == ("started", job_id) and entry.run not in ended
        }
        born = [entry for entry in entries if entry.what == "born" and entry.life in lost]
        return [entry.pid for entry in born if lives(entry)]

    def pids(self) -> dict[str, dict[int, int]]:
        """Return the pid of each rank of the latest life of each group."""
        latest: dict[str, tuple[int, dict[int, int]]] = {}
        for entry in self.read():
            if entry.what == "born":
                epoch, ranks = latest.get(entry.group, (0, {}))
                ranks = {} if entry.epoch != epoch else ranks
                latest[entry.group] = entry.epoch, ranks | {entry.rank: entry.pid}
        return {group: ranks for group, (_, ranks) in latest.items()}


def lives(born: Entry) -> bool:
    """Return whether a rank is still there; a zombie, which has no command line, is not."""
    try:
        command = Path(f"/proc/{born.pid}/cmdline").read_bytes()
    except OSError:
        return False
    # The pid may be another process's by now; the command line holds the config.
    return f'"epoch":{born.epoch},'.encode() in command
