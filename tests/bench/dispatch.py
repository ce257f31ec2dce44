"""What an event costs as the queue grows: `python -m tests.bench.dispatch`.

The dispatcher alone, without sockets, journal or clock: microseconds for a submit, for giving a
group the next job, for its end, for a cancel in the middle of the queue, and for telling the place
and the remaining time of a job there.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.broker.long_queue import LongQueue

LENGTHS = (100, 1_000, 10_000, 100_000)


def main() -> None:
    """Print a table; write it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="events of each kind")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments.rounds)
    print(table(figures))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))


def measure(num_rounds: int) -> dict[str, dict[str, float]]:
    """Return the median cost in microseconds by event and length, and how the ends compare."""
    by_length = {length: costs_us(length, num_rounds) for length in LENGTHS}
    figures = {
        event: {str(length): by_length[length][event] for length in LENGTHS}
        for event in by_length[LENGTHS[0]]
    }
    for costs in figures.values():
        costs["ratio"] = costs[str(LENGTHS[-1])] / costs[str(LENGTHS[0])]
    return figures


def costs_us(length: int, num_rounds: int) -> dict[str, float]:
    """Return what each event costs while so many jobs wait; the length stays what it is."""
    queue = LongQueue(length)
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
    gc.unfreeze()
    return {name: statistics.median(values) for name, values in spent.items()}


def table(figures: dict[str, dict[str, float]]) -> str:
    """Return the figures as lines of text."""
    lines = [
        f"{'microseconds at':16}" + "".join(f"{length:>10,}" for length in LENGTHS) + "  ratio"
    ]
    for event, costs in figures.items():
        cells = "".join(f"{costs[str(length)]:10.1f}" for length in LENGTHS)
        lines.append(f"{event:16}{cells}{costs['ratio']:7.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
