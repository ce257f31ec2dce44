"""The judge of a long run: does a measured quantity still grow in the second half?"""

import statistics
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

MB = 1e6
HOUR_S = 3600.0

Series = Sequence[tuple[float, float]]
"""Times in seconds and values, in the order of time."""


class Limit(NamedTuple):
    """How much a quantity may grow in the judged half.

    Leaks grow with time, so a long run is judged by its rate. A short one shows less growth than
    the noise of an allocator or of random load, which `least` allows.
    """

    per_hour: float
    least: float

    def over(self, length_s: float) -> float:
        return max(self.per_hour * length_s / HOUR_S, self.least)


MEMORY = Limit(per_hour=1 * MB, least=1 * MB)
RANK_MEMORY = Limit(per_hour=1 * MB, least=8 * MB)
"""Each video takes 100 MB for a moment, and the allocator keeps more or less of that, by chance."""
DESCRIPTORS = Limit(per_hour=0, least=6)
THREADS = Limit(per_hour=0, least=3)


_NUM_FLOORS = 10


class Growth(NamedTuple):
    """What a series did in the second half of a run."""

    typical: float
    total: float
    """Growth over the half, by the slope."""
    per_hour: float
    allowed: float
    """The most that `total` may be."""

    @property
    def is_leak(self) -> bool:
        return self.total > self.allowed


def judge(series: Series, run_s: float, limit: Limit) -> Growth | None:
    """Judge the second half of a run; None if it did not live through it.

    It must have begun in the first quarter, so that its own warm-up is over.

    The slope is that of the floors, the least values of each tenth of the half: they are without
    what is in use for a moment only. It is Theil and Sen's: the median of the slopes between all
    pairs. Single peaks do not move it.
    """
    half = [(at_s, value) for at_s, value in series if at_s >= run_s / 2]
    if len(half) < _NUM_FLOORS or series[0][0] > run_s / 4 or half[-1][0] < 0.95 * run_s:
        return None
    slope = statistics.median(
        (later - earlier) / (later_s - earlier_s)
        for (earlier_s, earlier), (later_s, later) in combinations(_floors(half), 2)
    )
    length_s = half[-1][0] - half[0][0]
    return Growth(
        typical=statistics.median(value for _, value in half),
        total=slope * length_s,
        per_hour=slope * HOUR_S,
        allowed=limit.over(length_s),
    )


def _floors(series: Series) -> Series:
    """Return the least value of each tenth of a series, with the time of the tenth's middle."""
    bounds = [len(series) * number // _NUM_FLOORS for number in range(_NUM_FLOORS + 1)]
    parts = [series[start:end] for start, end in pairwise(bounds)]
    return [(part[len(part) // 2][0], min(value for _, value in part)) for part in parts]
