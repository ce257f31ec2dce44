"""The cost of an event by number of jobs and groups: `python -m tests.bench.dispatch`.

It measures the dispatcher alone, without sockets, journal or clock, in microseconds: to submit a
job, to lease one to a group, to end it, to report queue position and remaining time of a job in the
middle of the queue, to cancel it, a rank's heartbeat, an urgent job that preempts another, and a
group that is lost and returns.
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
NUM_GROUPS = (10, 100, 1_000, 10_000)
MEDIUM_LENGTH = 1_000

Figures = dict[str, dict[str, float]]


def main() -> None:
    """Print two tables; write them as JSON if `--json` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="events of each kind")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    logging.disable()
    by_length = measure_lengths(rounds)
    print(table("waiting jobs", by_length))
    by_groups = compare({size: costs_us(MEDIUM_LENGTH, size, rounds) for size in NUM_GROUPS})
    print(table("groups", by_groups))
    if arguments.json is not None:
        figures = {"waiting jobs": by_length, "groups": by_groups}
        arguments.json.write_text(json.dumps(figures, indent=2))


def measure_lengths(num_rounds: int) -> Figures:
    """Return the costs by event and number of waiting jobs, in microseconds."""
    return compare({length: costs_us(length, 1, num_rounds) for length in LENGTHS})


def compare(by_size: dict[int, dict[str, float]]) -> Figures:
    """Return the costs by event and size, and the ratio of the largest size to the smallest."""
    first, *_, last = by_size.values()
    return {
        event: {f"{size:,}": by_size[size][event] for size in by_size}
        | {"ratio": last[event] / first[event]}
        for event in first
    }


def costs_us(length: int, num_groups: int, num_rounds: int) -> dict[str, float]:
    """Return the median cost of each event in microseconds, at a constant queue length."""
    queue = LongQueue(length, num_groups)
    spent: dict[str, list[float]] = {}

    def clock(name: str, event: Callable[[], object]) -> None:
        begun = time.perf_counter()
        event()
        spent.setdefault(name, []).append((time.perf_counter() - begun) * 1e6)

    # A garbage collection visits all jobs; that is rare, and not the dispatcher's cost.
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
    gc.unfreeze()
    return {name: statistics.median(values) for name, values in spent.items()}


def table(sizes_of: str, figures: Figures) -> str:
    columns = next(iter(figures.values()))
    lines = [f"{f'us by {sizes_of}':18}" + "".join(f"{column:>10}" for column in columns)]
    for event, costs in figures.items():
        lines.append(f"{event:18}" + "".join(f"{cost:10.2f}" for cost in costs.values()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
