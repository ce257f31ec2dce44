"""Settings of the stub ranks and their launcher, and the faults that a test sets for them."""

import os
from pathlib import Path
from typing import Literal

import msgspec

VARIABLE = "STUB_SETTINGS"

Act = Literal["die", "hold", "slow"]
"""`die`: the process ends at once; `hold`: it stops here, but its heartbeats continue; `slow`:
further steps of the attempt take five times as long."""


class StubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first argument of `python -m tests.chaos.launch`, as JSON; the ranks inherit it."""

    folder: str
    """Folder of the ledger and the faults."""
    with_ledger: bool = True
    """Without, a run of hours neither fills the disk nor reads all of it before each attempt."""
    ranks_module: str = "tests.chaos.stub_ranks"
    """`ranks` for real ranks."""
    front_module: str = "http_front"
    """`tests.http_front.front_with_names` for a front whose name lookups a test controls."""
    num_steps: int = 6
    step_s: float = 0.02
    beat_every_s: float = 0.25
    load_error: str = ""
    """If set, every rank fails to load with this message."""
    first_delay_s: float = 0.05
    """Delay before a process is started again; it doubles up to four times this."""
    max_failures: int = 1_000_000
    hung_after_s: float = 30.0
    """Time without a sign of life after which the launcher replaces broker or front."""
    retry_pauses_s: tuple[float, float] = (0.05, 0.1)
    """Delays before the second and the third attempt of a job."""
    lost_s: float = 30.0
    """Time without a message after which a machine counts as lost."""

    @classmethod
    def inherited(cls) -> "StubSettings":
        """Return the settings that the launcher passed on."""
        return msgspec.json.decode(os.environ[VARIABLE], type=cls)

    @property
    def ledger(self) -> Path:
        """Path of the ledger."""
        return Path(self.folder) / "ledger" if self.with_ledger else Path(os.devnull)


class Faults:
    """Faults as files, one per point in the code; the first process to reach a point takes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def set(self, point: str, act: Act) -> None:
        """Make the next process that reaches a point fail."""
        self._reached(point).unlink(missing_ok=True)
        partial = self._folder / f"{point}.new"
        partial.write_text(act)
        partial.rename(self._fault(point))

    def take(self, point: str) -> str | None:
        """Return and use up the fault at a point; None if there is none."""
        try:
            self._fault(point).rename(self._reached(point))
        except FileNotFoundError:
            return None
        return self._reached(point).read_text()

    def is_reached(self, point: str) -> bool:
        """Whether a process has reached a point and taken its fault."""
        return self._reached(point).exists()

    def _fault(self, point: str) -> Path:
        return self._folder / f"{point}.fault"

    def _reached(self, point: str) -> Path:
        return self._folder / f"{point}.reached"
