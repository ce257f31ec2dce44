"""Runs a long benchmark in parts within a time budget; a part that fails does not stop the rest."""

import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec


class Parts:
    """Runs parts one after the other, and writes the results to disk after each.

    Args:
        path: JSON file for the results.
        budget_s: For all parts together.
    """

    def __init__(self, path: Path, budget_s: float) -> None:
        self.found: dict[str, Any] = {}
        self._path = path
        self._end_s = time.monotonic() + budget_s
        self._begun_s = time.monotonic()
        signal.signal(signal.SIGALRM, _raise_timeout)

    def run(self, name: str, limit_s: float, part: Callable[[], Any]) -> Any:
        """Return a part's result; if it fails, record the error and return None."""
        limit_s = min(limit_s, self._end_s - time.monotonic())
        begun_s = time.monotonic()
        found = None
        try:
            if limit_s <= 0:
                raise TimeoutError("no time was left")
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            found = part()
            self.found[name] = found
        except Exception as error:  # noqa: BLE001 (whatever it is, the other parts run)
            self.found[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.found.setdefault("taken_s", {})[name] = round(time.monotonic() - begun_s, 1)
        self._path.write_bytes(msgspec.json.format(msgspec.json.encode(self.found), indent=1))
        print(f"{time.monotonic() - self._begun_s:6.1f} s  {name}: {self.found[name]}", flush=True)
        return found


def _raise_timeout(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the part took too long")
