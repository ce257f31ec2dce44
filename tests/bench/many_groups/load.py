"""Many stub groups on a real broker: its dispatch latency, resource use and lost jobs."""

import asyncio
import os
import signal
import sqlite3
import statistics
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec

from broker.wire.job import JobState
from broker.wire.replies import JobFound
from broker.wire.sockets import Addresses
from tests.bench.many_groups.stub import Record
from tests.bench.many_groups.stubs import StubsConfig
from tests.bench.many_groups.usage import Usage, memory_bytes
from tests.broker.driver import BrokerProcess, Front, broker_config, new_job_id, running_broker
from tests.chaos.checker import Evidence, violations_so_far
from tests.chaos.client import Witness
from tests.free_port import free_port

NUM_SUBMITS_AT_ONCE = 500
LOOK_EVERY_S = 1.0
KNOWN_LIMIT_S = 20.0
SINCE = "since"
"""Start of the measurement, in seconds since 1970."""
Figures = dict[str, float]


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The number of groups and jobs, and the rate of faults."""

    num_groups: int
    num_jobs: int
    """Jobs that wait at all times."""
    finished_per_s: float
    lost_per_minute: float
    """Share of the groups that is lost per minute."""
    lost_s: float
    """Silence after which the broker counts a group as lost."""
    join_s: float
    """Time over which the groups join."""
    measured_s: float
    num_processes: int = 2
    """Processes that the stubs are spread over."""

    @property
    def run_s(self) -> float:
        """Duration of a job, such that as many finish while some groups are down."""
        return 0.95 * self.num_groups / self.finished_per_s


async def measure(settings: LoadSettings, folder: Path) -> tuple[Figures, list[str]]:
    """Return the figures by name, each with its unit, and every broken promise."""
    config = broker_config(
        folder,
        listen=Addresses.on_tcp(f"tcp://127.0.0.1:{free_port()}", None),
        is_open=True,
        max_queue=settings.num_jobs + 1000,
        lost_s=settings.lost_s,
    )
    witness = Witness()
    with (folder / "log").open("wb") as log:
        async with running_broker(config, log) as broker, Front(config) as front:
            figures, records = await _serve(settings, broker, front, witness, folder)
            assert await broker.stop() == 0
    figures |= _waits(records, folder, figures.pop(SINCE))
    return figures | _counts(records, witness), _broken(records, folder, witness)


async def _serve(
    settings: LoadSettings, broker: BrokerProcess, front: Front, witness: Witness, folder: Path
) -> tuple[Figures, list[Record]]:
    """Return the broker's use of resources and the records of the stubs."""
    addresses = broker.config.listen
    assert addresses is not None, "groups come over TCP"
    figures = {"at the start, MB": _megabytes(broker)}
    await _submit(front, witness, settings.num_jobs)
    figures["with the queue, MB"] = _megabytes(broker)
    async with _stubs(settings, addresses, folder) as stubs:
        await _until_busy(front, settings)
        figures |= await _observe(settings, broker, front, witness)
        records = [await _end(process, path) for process, path in stubs]
    await _until_known(front, records)
    return figures, records


async def _observe(
    settings: LoadSettings, broker: BrokerProcess, front: Front, witness: Witness
) -> Figures:
    """Return the broker's use of resources, while as many jobs are submitted as finish."""
    since_s, before = time.time(), Usage.of(broker.process.pid)
    end_s = asyncio.get_running_loop().time() + settings.measured_s
    while asyncio.get_running_loop().time() < end_s:
        await _submit(front, witness, 1)
        await asyncio.sleep(1.0 / settings.finished_per_s)
    cores = Usage.of(broker.process.pid).cores_since(before)
    highest = memory_bytes(broker.process.pid, "VmHWM") / 1e6
    return {SINCE: since_s, **cores, "at most, MB": round(highest, 1)}


async def _submit(front: Front, witness: Witness, num_jobs: int) -> None:
    for first in range(0, num_jobs, NUM_SUBMITS_AT_ONCE):
        num_sent = min(NUM_SUBMITS_AT_ONCE, num_jobs - first)
        for _ in range(num_sent):
            await front.send_submit(new_job_id())
        for reply in await front.replies(num_sent):
            assert isinstance(reply, JobFound), reply
            witness.accepted.append(reply.job.job_id)


@asynccontextmanager
async def _stubs(
    settings: LoadSettings, addresses: Addresses, folder: Path
) -> AsyncIterator[list[tuple[Process, Path]]]:
    """Run the stub groups in several processes."""
    processes = []
    try:
        for number in range(settings.num_processes):
            path = folder / f"record-{number}.json"
            names = [
                f"g{index}" for index in range(number, settings.num_groups, settings.num_processes)
            ]
            processes.append((await _start(settings, addresses, names, path), path))
        yield processes
    finally:
        for process, _ in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _start(
    settings: LoadSettings, addresses: Addresses, names: list[str], path: Path
) -> Process:
    config = StubsConfig(
        addresses=addresses,
        names=names,
        join_s=settings.join_s,
        run_s=settings.run_s,
        lost_per_s=settings.lost_per_minute * len(names) / 60.0,
        lost_s=settings.lost_s,
        record=str(path),
        parent_pid=os.getpid(),
    )
    text = msgspec.json.encode(config).decode()
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.many_groups.stubs", text
    )


async def _end(process: Process, path: Path) -> Record:
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0, "the stubs have failed"
    return await asyncio.to_thread(lambda: msgspec.json.decode(path.read_bytes(), type=Record))


async def _until_busy(front: Front, settings: LoadSettings) -> None:
    """Wait until all groups run jobs, except those that were lost meanwhile."""
    await asyncio.sleep(settings.join_s)
    busy = 0.9 * settings.num_groups
    await front.until_health(lambda health: health.running >= busy, LOOK_EVERY_S)


async def _until_known(front: Front, records: Sequence[Record]) -> None:
    """Wait until the broker has processed all reports of finished jobs."""
    for job_id in _finished(records):
        view = await front.get(job_id)
        async with asyncio.timeout(KNOWN_LIMIT_S):
            while not view.state.is_terminal:
                await asyncio.sleep(0.1)
                view = await front.get(job_id)


def _finished(records: Sequence[Record]) -> list[str]:
    """Return the jobs finished by groups that were not lost later.

    A rank's last report may arrive after its launcher has reported the group gone. Then the attempt
    is lost, and the job runs again.
    """
    lost = {life for record in records for life in record.lost}
    return [
        entry.job_id
        for record in records
        for entry in record.entries
        if entry.what == "ended" and entry.group_epoch not in lost
    ]


def _waits(records: Sequence[Record], folder: Path, since_s: float) -> Figures:
    """Return how long free groups waited, and the part of it before the dispatcher's decision."""
    decided_at: dict[tuple[str, int], float] = {}
    with closing(sqlite3.connect(folder / "jobs.sqlite3")) as journal:
        query = "SELECT job_id, attempt, at FROM history WHERE state = ?"
        for job_id, attempt, at in journal.execute(query, (JobState.IN_PROGRESS.value,)):
            decided_at[job_id, attempt] = at
    waits = [wait for record in records for wait in record.waits if wait.free_at >= since_s]
    whole = [wait.given_at - wait.free_at for wait in waits]
    before = [decided_at[wait.job_id, wait.attempt] - wait.free_at for wait in waits]
    after = [wait.given_at - decided_at[wait.job_id, wait.attempt] for wait in waits]
    return {
        "dispatches": len(waits),
        **_percentiles("dispatch", whole),
        **_percentiles("of that until decided", before),
        **_percentiles("of that until there", after),
    }


def _counts(records: Sequence[Record], witness: Witness) -> Figures:
    """Return the numbers of jobs that could have been lost or run twice."""
    return {
        "jobs accepted": len(witness.accepted),
        "jobs finished": len(_made(records)),
        "groups gone": sum(record.num_gone for record in records),
        "groups silent": sum(record.num_silent for record in records),
    }


def _broken(records: Sequence[Record], folder: Path, witness: Witness) -> list[str]:
    entries = [entry for record in records for entry in record.entries]
    entries.sort(key=lambda entry: entry.at_s)
    evidence = Evidence.gather(folder, entries, witness)
    succeeded = {
        job_id for job_id, state in evidence.states.items() if state == JobState.SUCCEED.value
    }
    killed = sum(record.num_killed for record in records)
    return [
        *violations_so_far(evidence),
        *(
            f"{job} was finished, but the broker does not know it"
            for job in {*_finished(records)} - succeeded
        ),
        *(f"{job} has succeeded, but no group made it" for job in succeeded - _made(records)),
        *([f"{killed} groups that were well were killed"] if killed else []),
    ]


def _made(records: Sequence[Record]) -> set[str]:
    """Return the finished jobs, including those of lost groups."""
    return {entry.job_id for record in records for entry in record.entries if entry.what == "ended"}


def _percentiles(name: str, values_s: list[float]) -> Figures:
    cuts = statistics.quantiles(values_s, n=1000, method="inclusive")
    return {
        f"{name}, p50 ms": round(cuts[499] * 1000, 2),
        f"{name}, p99 ms": round(cuts[989] * 1000, 2),
    }


def _megabytes(broker: BrokerProcess) -> float:
    return round(memory_bytes(broker.process.pid) / 1e6, 1)
