"""Runs a long benchmark in parts within a time budget; a part that fails does not stop the rest."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

Works = Iterable[tuple[str, Callable[[], Any]]]
"""Parts by their names."""


class PartResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one part has found."""

    part: str
    figure: Any
    """`{"failed": TEXT}` if it failed, `{"skipped": TEXT}` if a package is missing."""
    taken_s: float
    at_s: float
    """Since the start of the benchmark."""


class Parts:
    """Runs parts one after the other.

    Each figure is written to disk as it comes, so that a benchmark that is killed loses one.

    Args:
        path: File for the figures, a line of JSON each. What is in it is replaced.
        budget_s: For all parts together.
        patience: Factor on the limits of single parts.
    """

    def __init__(self, path: Path, budget_s: float, patience: float = 1.0) -> None:
        self.found: dict[str, Any] = {}
        self._path = path
        self._patience = patience
        self._begun_s = time.monotonic()
        self._end_s = self._begun_s + budget_s
        path.write_bytes(b"")
        signal.signal(signal.SIGALRM, _raise_timeout)

    @property
    def failed(self) -> list[str]:
        return [
            name
            for name, figure in self.found.items()
            if isinstance(figure, dict) and "failed" in figure
        ]

    def run(self, name: str, limit_s: float, part: Callable[[], T]) -> T | None:
        """Return a part's result; if it fails, its figure is the error, and the result None."""
        limit_s = min(self._patience * limit_s, self._end_s - time.monotonic())
        begun_s = time.monotonic()
        result = None
        try:
            if limit_s <= 0:
                raise TimeoutError("no time was left")
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            result = part()
            self.found[name] = result
        except Exception as error:  # noqa: BLE001 (whatever it is, the other parts run)
            self._fail(name, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._write(name, begun_s)
        return result

    def make(self, name: str, limit_s: float, part: Callable[[], T]) -> T | None:
        """Return what a part makes; its figure is the time."""
        made: list[T] = []
        self.run(name, limit_s, lambda: made.append(part()))
        return made.pop() if made else None

    def run_all(self, name: str, limit_s: float, parts: Works) -> None:
        """Run parts that are made one by one; `name` has the error if one cannot be made."""
        try:
            for part_name, part in parts:
                self.run(part_name, limit_s, part)
        except Exception as error:  # noqa: BLE001 (likewise)
            self._fail(name, error)
            self._write(name, time.monotonic())

    def _fail(self, name: str, error: Exception) -> None:
        outcome = "skipped" if _names_missing_package(error) else "failed"
        self.found[name] = {outcome: f"{type(error).__name__}: {error}"[:2000]}
        if outcome == "failed":
            traceback.print_exc()

    def _write(self, name: str, begun_s: float) -> None:
        now_s = time.monotonic()
        line = PartResult(
            part=name,
            figure=self.found[name],
            taken_s=round(now_s - begun_s, 2),
            at_s=round(now_s - self._begun_s, 1),
        )
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{line.at_s:6.1f} s  {name}: {line.figure}", flush=True)


def _names_missing_package(error: Exception) -> bool:
    """Return whether a package of others is missing; without a module of ours nothing is well."""
    if not isinstance(error, ModuleNotFoundError):
        return False
    return (error.name or "").partition(".")[0] not in ("broker", "ranks", "tests")


def read_figures(path: Path) -> dict[str, Any]:
    """Return the figures of a benchmark, by their parts; one that was killed has fewer."""
    lines = (msgspec.json.decode(line, type=PartResult) for line in path.read_bytes().splitlines())
    return {line.part: line.figure for line in lines}


def _raise_timeout(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the part took too long")
