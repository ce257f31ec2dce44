"""What the stub ranks and their launcher are told, and the faults that a test lays out for them."""

import os
from pathlib import Path
from typing import Literal

import msgspec

VARIABLE = "STUB_SETTINGS"

Act = Literal["die", "hold", "slow"]
"""`die`: the process ends at once; `hold`: it goes no further, but beats on; `slow`: the run's
steps take five times as long from here on."""


class StubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first argument of `python -m tests.chaos.launch`, as JSON; the ranks inherit it."""

    folder: str
    """Where the ledger and the faults are."""
    ranks_module: str = "tests.chaos.stub_ranks"
    """`ranks` for real ones."""
    front_module: str = "http_front"
    """`tests.http_front.front_with_names` for one that looks names up where a test says."""
    num_steps: int = 6
    step_s: float = 0.02
    beat_every_s: float = 0.25
    load_error: str = ""
    """Why no rank ever loads; none by default."""
    first_delay_s: float = 0.05
    """Until a part that has died is started again; then twice as long, up to four times this."""
    max_failures: int = 1_000_000
    retry_pauses_s: tuple[float, float] = (0.05, 0.1)
    """Until a job whose run was lost may be run again."""
    lost_s: float = 30.0
    """Until a machine of which nothing is heard is given up."""

    @classmethod
    def inherited(cls) -> "StubSettings":
        """Return what the launcher was told."""
        return msgspec.json.decode(os.environ[VARIABLE], type=cls)

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return Path(self.folder) / "ledger"


class Faults:
    """Files that say what has to go wrong at which point; each is used up by the first to pass."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lay(self, point: str, act: Act) -> None:
        """Have the next one that passes a point suffer a fault."""
        self._reached(point).unlink(missing_ok=True)
        partial = self._folder / f"{point}.new"
        partial.write_text(act)
        partial.rename(self._fault(point))

    def take(self, point: str) -> str | None:
        """Return the act that is due at a point, which is used up thereby."""
        try:
            self._fault(point).rename(self._reached(point))
        except FileNotFoundError:
            return None
        return self._reached(point).read_text()

    def is_reached(self, point: str) -> bool:
        """Return whether somebody has come to a point where a fault was laid."""
        return self._reached(point).exists()

    def _fault(self, point: str) -> Path:
        return self._folder / f"{point}.fault"

    def _reached(self, point: str) -> Path:
        return self._folder / f"{point}.reached"
