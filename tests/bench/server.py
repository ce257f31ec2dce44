"""The whole server on CPU ranks: `python -m tests.bench.server`.

It measures the time from start to ready (first with building the demo model, then without), the
time of a job of 128*128, 24 frames and 20 steps, the ranks' idle time between two jobs, the latency
of `/video/status` while the ranks compute and while they are idle, and the processor time of each
idle process.
"""

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.running_server import Caller, RunningServer, calling, running_server

NUM_STARTS = 5
NUM_JOBS = 5
IDLE_S = 20.0
ASK_EVERY_S = 0.01


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = await measure(Path(folder) / "state")
    for name, value in figures.items():
        print(f"{name:36} {value:8.2f}")
    print(json.dumps(figures))


async def measure(state_dir: Path) -> dict[str, float]:
    """Return the figures by name; each name ends in its unit."""
    figures = {"first_start_s": await start_s(state_dir)}
    starts = [await start_s(state_dir) for _ in range(NUM_STARTS)]
    figures["start_median_s"] = statistics.median(starts)
    async with running_server(state_dir) as server, calling(server) as caller:
        jobs = [await job_s(caller) for _ in range(NUM_JOBS)]
        figures["job_median_s"] = statistics.median(jobs)
        figures["gap_between_jobs_ms"] = statistics.median(
            [await gap_ms(caller) for _ in range(NUM_JOBS)]
        )
        figures |= percentiles("status_computing", await latencies_ms(caller, busy=True))
        figures |= percentiles("status_idle", await latencies_ms(caller, busy=False))
        figures["idle_busiest_process_percent"] = await idle_percent(server)
    return figures


async def start_s(state_dir: Path) -> float:
    server = RunningServer(state_dir)
    try:
        return await server.wait_until_ready()
    finally:
        await server.stop()
        server.end()


async def job_s(caller: Caller) -> float:
    """Return the seconds of the small job from submit to video."""
    begun = time.monotonic()
    await caller.wait_for(await caller.submit(), status="Succeed")
    return time.monotonic() - begun


async def gap_ms(caller: Caller) -> float:
    """Return the ranks' idle time between the last frame of a job and the next job."""
    first, second = await caller.submit(), await caller.submit()

    async def moment(job_id: str, stage: str) -> float:
        await caller.wait_for(job_id, stage=stage)
        return time.monotonic()

    ended, begun = await asyncio.gather(moment(first, "save"), moment(second, "encode"))
    await caller.wait_for(second, status="Succeed")
    return (begun - ended) * 1000


async def latencies_ms(caller: Caller, busy: bool) -> list[float]:
    """Return the latency of each `/video/status`, at a hundred requests per second."""
    job_id = await caller.submit(infer_steps="100")
    await caller.wait_for(job_id, stage="denoise")
    if not busy:
        await caller.post("/video/cancel", job_id)
        await asyncio.sleep(1)
    latencies = []
    for _ in range(500):
        begun = time.monotonic()
        await caller.status(job_id)
        latencies.append((time.monotonic() - begun) * 1000)
        await asyncio.sleep(ASK_EVERY_S)
    status = await caller.status(job_id)
    assert (status["status"] == "InProgress") is busy, status
    await caller.post("/video/cancel", job_id)
    return latencies


def percentiles(name: str, values: list[float]) -> dict[str, float]:
    """Return median and 99th percentile of values in milliseconds."""
    return {
        f"{name}_p50_ms": statistics.median(values),
        f"{name}_p99_ms": statistics.quantiles(values, n=100)[98],
    }


async def idle_percent(server: RunningServer) -> float:
    """Return the share of a core that the busiest process of an idle server uses."""
    before = {pid: server.processor_time_s(pid) for pid in server.pids()}
    await asyncio.sleep(IDLE_S)
    return max(server.processor_time_s(pid) - used for pid, used in before.items()) / IDLE_S * 100


if __name__ == "__main__":
    asyncio.run(main())
