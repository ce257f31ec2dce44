"""All figures of the serving path: `python -m tests.bench.serving --json FILE`.

In each round, the rivals and this server take turns. It needs the extra `bench` and Redis
(`pip install -c constraints.txt -e '.[bench]'`, `apt-get install redis-server`), and a user who may
set real-time priority: root, or `ulimit -r 1`.
"""

import argparse
import asyncio
import importlib.util
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from launcher.options import Options
from launcher.preflight import StartError, check_realtime_front
from tests.bench import dispatch
from tests.bench.report import machine, write_report
from tests.bench.serving.computing import Ranks
from tests.bench.serving.events import measure_events
from tests.bench.serving.figures import OURS, Figures
from tests.bench.serving.memory import measure_memory
from tests.bench.serving.submits import queues

NUM_EVENTS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    try:
        check_realtime_front(Options(realtime_front=True))
    except StartError as error:
        parser.error(str(error))
    if missing := missing_rivals():
        parser.error(f"missing: {', '.join(missing)}; see `--help` for what to install")
    logging.disable()  # the dispatcher, measured in this process, logs each lost job
    # Like Ctrl-C, so that all child processes are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="wan-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), arguments.rounds))
    print(figures.table())
    write_report(arguments.json, {"machine": machine(), **figures.as_json()})


def missing_rivals() -> list[str]:
    """Return what the rivals need and this machine lacks."""
    packages = ("celery", "fastapi", "redis", "uvicorn")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return missing if shutil.which("redis-server") else [*missing, "redis-server"]


async def measure(folder: Path, num_rounds: int) -> Figures:
    figures = Figures()
    async with queues(folder) as both:
        for number in range(num_rounds):
            say(f"submits, round {number + 1} of {num_rounds}")
            await both.measure(figures)
    ranks = Ranks(folder)
    await ranks.prepare()
    for number in range(num_rounds):
        say(f"ranks, round {number + 1} of {num_rounds}")
        await ranks.measure(figures)
    say("events, memory, dispatch")
    await measure_events(folder / "events", figures, num_rounds)
    await measure_memory(folder / "memory", figures)
    costs = dispatch.measure_lengths(NUM_EVENTS)
    name = "dispatch at 100,000 against 100 waiting jobs"
    figures.add(name, OURS, max(cost["ratio"] for cost in costs.values()))
    return figures


def say(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
