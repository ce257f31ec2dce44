"""The memory that a long queue takes in the broker."""

import asyncio
from pathlib import Path

from broker.wire.replies import JobFound
from tests.bench.serving.figures import OURS, Figures
from tests.broker.driver import Front, broker_config, new_job_id
from tests.chaos.server import ChaosServer

NUM_JOBS = 10_000
NUM_AT_ONCE = 500
WORK_S = 3600.0


async def measure_memory(folder: Path, figures: Figures) -> None:
    """Fill the queue of a server whose group is busy."""
    server = ChaosServer(folder, max_queue=NUM_JOBS + 1, step_s=WORK_S)
    try:
        await server.start()
        async with Front(broker_config(server.state_dir)) as front:
            await _submit(front, 1)
            before_mb = _broker_mb(server)
            await _submit(front, NUM_JOBS)
            figures.add("broker with an empty queue, MB", OURS, before_mb)
            figures.add(f"broker with {NUM_JOBS:,} waiting jobs, MB", OURS, _broker_mb(server))
    finally:
        server.end()


async def _submit(front: Front, num_jobs: int) -> None:
    for first in range(0, num_jobs, NUM_AT_ONCE):
        num_sent = min(NUM_AT_ONCE, num_jobs - first)
        await asyncio.gather(*(front.send_submit(new_job_id()) for _ in range(num_sent)))
        replies = await front.replies(num_sent)
        assert all(isinstance(reply, JobFound) for reply in replies)


def _broker_mb(server: ChaosServer) -> float:
    status = Path(f"/proc/{server.pid_of('broker')}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
