"""How long a restarted broker is unavailable: `python -m tests.bench.restart`.

It measures the time from the start of the process to its line `ready`, and to its first status
answer, by number of jobs in the journal. The broker is killed before each start; medians.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from broker.config import BrokerConfig
from broker.dispatch.job_record import Job
from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from tests.bench.report import machine, write_report
from tests.broker.driver import IMAGE, SPEC, BrokerProcess, Front, broker_config

NUM_JOBS = (0, 1_000, 100_000)
_BATCH = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="starts with each number of jobs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = {}
    for num_jobs in NUM_JOBS:
        with tempfile.TemporaryDirectory(prefix="wan-") as folder:
            figures[num_jobs] = asyncio.run(measure(Path(folder), num_jobs, arguments.runs))
    print(table(figures))
    write_report(arguments.json, {"machine": machine(), "restart": figures})


def table(figures: dict[int, dict[str, float]]) -> str:
    """Return the table as the documentation shows it."""
    rows = [
        f"| {num_jobs:,} | {found['ready_s']:.1f} s | {found['answer_s']:.1f} s "
        f"| {found['journal_mb']:.1f} MB |"
        for num_jobs, found in figures.items()
    ]
    head = [
        "| jobs | until ready | until the first status | journal |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows])


async def measure(state_dir: Path, num_jobs: int, num_runs: int) -> dict[str, float]:
    """Return medians over several starts on one journal."""
    config = broker_config(state_dir, max_queue=num_jobs + 1)
    job_id = write_jobs(config, num_jobs)
    times = [await start_s(config, job_id) for _ in range(num_runs)]
    ready_s, answer_s = (statistics.median(column) for column in zip(*times, strict=True))
    num_bytes = StateDir(state_dir).journal.stat().st_size
    return {"ready_s": ready_s, "answer_s": answer_s, "journal_mb": num_bytes / 1e6}


async def start_s(config: BrokerConfig, job_id: str) -> tuple[float, float]:
    """Return the time until a broker is ready, and until its first answer."""
    broker = BrokerProcess(config)
    async with Front(config) as front:
        begun = time.monotonic()
        await broker.start()
        ready_s = time.monotonic() - begun
        await front.get(job_id)
        answer_s = time.monotonic() - begun
    await broker.kill()
    return ready_s, answer_s


def write_jobs(config: BrokerConfig, num_jobs: int) -> str:
    """Write a journal with so many waiting jobs and one more; return the last one's id."""
    state_dir = StateDir(Path(config.state_dir))
    journal = Journal(state_dir.journal)
    now_s = time.time()
    jobs = [
        Job(
            number=number,
            job_id=f"{number:032x}",
            spec=SPEC,
            image=IMAGE,
            created_at=now_s,
            updated_at=now_s,
        )
        for number in range(1, num_jobs + 2)
    ]
    for first in range(0, len(jobs), _BATCH):
        journal.write(jobs[first : first + _BATCH])
    journal.close()
    state_dir.close()
    return jobs[-1].job_id


if __name__ == "__main__":
    main()
