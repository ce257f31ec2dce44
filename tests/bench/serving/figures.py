"""The results by round, their medians and ratios, and the targets."""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

OURS, RIVAL_1, RIVAL_2 = "ours", "FastAPI in rank 0", "FastAPI, Celery, Redis"


@dataclass(frozen=True)
class Target:
    """A limit for our median, or for its ratio to a rival's."""

    name: str
    limit: float
    rival: str | None = None
    is_rate: bool = False
    """Whether a larger value is better."""


TARGETS = (
    Target("status while computing, p99 ms", 10.0, RIVAL_1),
    Target("status while computing, real-time front, p99 ms", 10.0, RIVAL_1),
    Target("submits a second, 1 client", 3.0, RIVAL_2, is_rate=True),
    Target("submits a second, 16 clients", 3.0, RIVAL_2, is_rate=True),
    Target("submits a second, 128 clients", 3.0, RIVAL_2, is_rate=True),
    Target("start to ready, s", 2.0, RIVAL_1),
    Target("idle between two jobs, ms", 50.0),
    Target("event to 100 WebSockets, p99 ms", 20.0),
    Target("dispatch at 100,000 against 100 waiting jobs", 2.0),
)


class Figures:
    """Values by name and side, in the order in which names were added."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, name: str, side: str, value: float) -> None:
        self._values[name][side].append(value)

    def median(self, name: str, side: str) -> float:
        return statistics.median(self._values[name][side])

    def as_json(self) -> dict[str, Any]:
        """Return all values, medians and targets, and whether each target was reached."""
        return {
            "rounds": self._values,
            "medians": {
                name: {side: statistics.median(values) for side, values in sides.items()}
                for name, sides in self._values.items()
            },
            "targets": [
                {"name": target.name, "limit": target.limit, "found": self._found(target)}
                | {"reached": self._is_reached(target)}
                for target in TARGETS
            ],
        }

    def table(self) -> str:
        """Return one line per name and one per target."""
        lines = [f"{'median':46}{'ours':>10}{'rival':>10}{'better by':>11}"]
        lines += [self._line(name, sides) for name, sides in self._values.items()]
        lines.append("")
        for target in TARGETS:
            word = "reached" if self._is_reached(target) else "MISSED"
            against = "" if target.rival is None else f" times better than {target.rival}"
            found = f"{self._found(target):.2f}, wanted {target.limit:g}{against}"
            lines.append(f"{word:8} {target.name}: {found}")
        return "\n".join(lines)

    def _line(self, name: str, sides: dict[str, list[float]]) -> str:
        cells = [f"{name:46}"]
        cells.append(f"{self.median(name, OURS):10.2f}")
        for rival in (RIVAL_1, RIVAL_2):
            if rival in sides:
                times = self._times_better(name, rival, name.startswith("submits a second"))
                cells.append(f"{self.median(name, rival):10.2f}{times:10.1f}x  {rival}")
        return "".join(cells)

    def _times_better(self, name: str, rival: str, is_rate: bool) -> float:
        times = self.median(name, rival) / self.median(name, OURS)
        return 1 / times if is_rate else times

    def _found(self, target: Target) -> float:
        if target.rival is None:
            return self.median(target.name, OURS)
        return self._times_better(target.name, target.rival, target.is_rate)

    def _is_reached(self, target: Target) -> bool:
        found = self._found(target)
        return found <= target.limit if target.rival is None else found >= target.limit
