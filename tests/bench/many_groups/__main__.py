"""The broker with many groups: `python -m tests.bench.many_groups`, four minutes.

1,000 stub groups of eight ranks each, over TCP, with 100,000 waiting jobs. It measures how long a
free group waits for its next job and what the broker uses, and checks that no job is lost or run by
two groups at once while groups die and vanish. Then it simulates up to 10,000 groups on the
dispatcher alone.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from tests.bench.many_groups import simulation
from tests.bench.many_groups.load import LoadSettings, measure
from tests.bench.report import machine, write_report


def main() -> int:
    """Measure, print tables, write JSON if asked; return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=100_000, help="that wait")
    parser.add_argument("--seconds", type=float, default=90.0, help="to measure")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    # Like Ctrl-C, so that all child processes are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="wan-bench-") as folder:
        settings = settings_of(arguments.groups, arguments.jobs, arguments.seconds)
        figures, broken = asyncio.run(measure(settings, Path(folder)))
    for name, value in figures.items():
        print(f"{name:40} {value:12,.2f}")
    print("\n".join(broken) or "nothing lost, nothing doubled")
    costs = simulation.measure()
    print(simulation.table(costs))
    found = {"machine": machine(), "groups": figures, "broken": broken, "simulation": costs}
    write_report(arguments.json, found)
    return 1 if broken else 0


def settings_of(num_groups: int, num_jobs: int, measured_s: float) -> LoadSettings:
    """Return settings in which each group does as much work as at any other size."""
    return LoadSettings(
        num_groups=num_groups,
        num_jobs=num_jobs,
        finished_per_s=num_groups / 50,
        lost_per_minute=0.05,
        lost_s=30.0,
        join_s=num_groups / 50,
        measured_s=measured_s,
    )


if __name__ == "__main__":
    sys.exit(main())
