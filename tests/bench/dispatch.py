"""What an event costs as queue and fleet grow: `python -m tests.bench.dispatch`.

The dispatcher alone, without sockets, journal or clock: microseconds for a submit, for giving a
group the next job, for its end, for telling the place and the remaining time of a job in the middle
of the queue, for a cancel there, for a rank's beat, for an urgent job that takes a run's place, and
for a group that is lost and comes back.
"""

import argparse
import gc
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.broker.dispatch.long_queue import LongQueue

LENGTHS = (100, 1_000, 10_000, 100_000)
FLEETS = (10, 100, 1_000, 10_000)
MEDIUM_LENGTH = 1_000

Figures = dict[str, dict[str, float]]


def main() -> None:
    """Print two tables; write them as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="events of each kind")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    logging.disable()
    by_length = measure_lengths(rounds)
    print(table("waiting jobs", by_length))
    by_fleet = compare({size: costs_us(MEDIUM_LENGTH, size, rounds) for size in FLEETS})
    print(table("groups", by_fleet))
    if arguments.json is not None:
        figures = {"waiting jobs": by_length, "groups": by_fleet}
        arguments.json.write_text(json.dumps(figures, indent=2))


def measure_lengths(num_rounds: int) -> Figures:
    """Return the costs by event and number of waiting jobs, in microseconds."""
    return compare({length: costs_us(length, 1, num_rounds) for length in LENGTHS})


def compare(by_size: dict[int, dict[str, float]]) -> Figures:
    """Return the costs by event and size, and how the largest size compares with the smallest."""
    first, *_, last = by_size.values()
    return {
        event: {f"{size:,}": by_size[size][event] for size in by_size}
        | {"ratio": last[event] / first[event]}
        for event in first
    }


def costs_us(length: int, num_groups: int, num_rounds: int) -> dict[str, float]:
    """Return the median cost of each event in microseconds; the length stays what it is."""
    queue = LongQueue(length, num_groups)
    spent: dict[str, list[float]] = {}

    def clock(name: str, event: Callable[[], object]) -> None:
        begun = time.perf_counter()
        event()
        spent.setdefault(name, []).append((time.perf_counter() - begun) * 1e6)

    # A collection walks over all jobs there are; that is the interpreter's cost, and rare.
    gc.collect()
    gc.freeze()
    for _ in range(num_rounds):
        clock("submit", queue.submit)
        clock("dispatch", queue.dispatch)
        clock("finish", queue.finish)
        clock("status", queue.ask)
        clock("cancel", queue.cancel)
        queue.submit()
        clock("beat", queue.heartbeat)
        clock("preempt", queue.preempt)
        queue.cancel_urgent()
        clock("lose", queue.lose)
        queue.cancel_lost()
        queue.submit()
    gc.unfreeze()
    return {name: statistics.median(values) for name, values in spent.items()}


def table(sizes_of: str, figures: Figures) -> str:
    """Return the figures as lines of text."""
    columns = next(iter(figures.values()))
    lines = [f"{f'us by {sizes_of}':18}" + "".join(f"{column:>10}" for column in columns)]
    for event, costs in figures.items():
        lines.append(f"{event:18}" + "".join(f"{cost:10.2f}" for cost in costs.values()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
