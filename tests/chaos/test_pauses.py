"""Processes are frozen and go on: soon after, the server works, and no job is lost or doubled."""

import asyncio
import os
import random
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import aiohttp

from tests.chaos.checker import Evidence, violations
from tests.chaos.client import Client, Witness
from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import RunningServer
from tests.test_joining import joined, open_site

SEED = 20260131
HEALED_S = 15.0
JOBS_LIMIT_S = 60.0
CYCLES_PER_PAUSE = 12
"""A pause takes as long as this many kills."""
NUM_SERVERS, NUM_SERVERS_LONG = 2, 4
"""At the same time: most of a pause is waiting."""
PAUSES_S = (5.0, 60.0)
SHORT_PAUSES_S = (5.0, 12.0)
LONGEST_PAUSE_S = 120.0
LONGEST_EVERY = 10
TARGETS = (
    "broker",
    "front",
    "launcher",
    "rank",
    "broker and front",
    "broker and launcher",
    "front and launcher",
    "launcher and rank",
    "broker and rank",
    "all",
)
JOINED_TARGETS = (*TARGETS, "relay", "broker and relay", "relay and launcher", "far rank")
"""The launcher of a group that joins relays its heartbeats."""


class Pauses:
    """Freezes processes of a server while jobs arrive and run.

    Args:
        server: With stub ranks.
        client: Of the server.
        far: The launcher of a group that joins the server; None without one.
        seed: Of the random choices.
    """

    def __init__(
        self, server: ChaosServer, client: Client, far: RunningServer | None, seed: int
    ) -> None:
        self._random = random.Random(seed)
        self._server = server
        self._client = client
        self._far = far

    async def cycle(self, target: str, pause_s: float) -> None:
        """Freeze a target for a time; then the server must answer, and finish a job."""
        jobs = [asyncio.create_task(self._client.submit()) for _ in range(2)]
        await asyncio.sleep(self._random.uniform(0.0, 0.3))  # a random moment
        frozen = self._pids(target)
        _send(frozen, signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        _send(frozen, signal.SIGCONT)
        try:
            async with asyncio.timeout(HEALED_S):
                await self._server.until_healthy()
                job_id = None
                while job_id is None:
                    job_id = await self._client.submit()
                await self._client.until_ended(job_id)
        except TimeoutError:
            raise AssertionError(
                f"{target} frozen for {pause_s:.1f} s: not healed after {HEALED_S:g} s\n"
                f"{self._server.life.log()[-8000:]}"
            ) from None
        await asyncio.gather(*jobs)

    def _pids(self, target: str) -> list[int]:
        if target == "all":
            return self._server.life.pids()
        return [pid for part in target.split(" and ") for pid in self._pids_of(part)]

    def _pids_of(self, part: str) -> list[int]:
        match part:
            case "broker" | "front":
                pid = self._server.pid_of("http_front" if part == "front" else "broker")
                return [] if pid is None else [pid]
            case "launcher":
                return [self._server.life.process.pid]
            case "relay":
                assert self._far is not None
                return [self._far.process.pid]
            case _:
                is_far = part == "far rank"
                groups = self._server.ledger.pids().items()
                ranks = [pids for name, pids in groups if name[1:].isdigit() != is_far]
                return [self._random.choice(list(self._random.choice(ranks).values()))]


async def run_pauses(
    server: ChaosServer, far: RunningServer | None, pauses: list[tuple[str, float]], seed: int
) -> None:
    """Freeze each target in turn; in the end, every accepted job must have ended once."""
    witness = Witness()
    async with aiohttp.ClientSession() as session:
        client = Client(session, witness)
        client.url = server.life.url
        cycles = Pauses(server, client, far, seed)
        for target, pause_s in pauses:
            await cycles.cycle(target, pause_s)
        async with asyncio.timeout(JOBS_LIMIT_S):
            for job_id in witness.accepted:
                await client.until_ended(job_id)
    assert await server.life.stop() == 0
    evidence = Evidence.gather(server.state_dir, server.ledger.read(), witness)
    assert violations(evidence) == []


def plan(targets: tuple[str, ...], count: int, seed: int, is_long: bool) -> list[tuple[str, float]]:
    chosen = random.Random(seed)
    order = [targets[(seed * count + number) % len(targets)] for number in range(count)]
    shortest_s, longest_s = PAUSES_S if is_long else SHORT_PAUSES_S
    pauses = [(target, chosen.uniform(shortest_s, longest_s)) for target in order]
    for number in range(LONGEST_EVERY - 1, count, LONGEST_EVERY):
        pauses[number] = pauses[number][0], LONGEST_PAUSE_S
    return pauses


async def test_no_pause_at_any_time_stops_the_server(
    tmp_path: Path, cycles: int, is_long: bool
) -> None:
    num_servers = NUM_SERVERS_LONG if is_long else NUM_SERVERS
    count = max(1, cycles // CYCLES_PER_PAUSE // num_servers)

    async def one(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        async with chaos_server(folder, groups=2, nproc=2) as server:
            await run_pauses(server, None, plan(TARGETS, count, number, is_long), number)

    async def one_joined(number: int) -> None:
        with tempfile.TemporaryDirectory(prefix="wan-") as folder:
            async with (
                open_site(Path(folder), groups=1, nproc=2, lost_s=30.0) as site,
                joined(site, "group", "far", "--nproc", "2") as far,
            ):
                pauses = plan(JOINED_TARGETS, count, number, is_long)
                await run_pauses(site.server, far, pauses, number)

    async with asyncio.TaskGroup() as running:
        for number in range(num_servers // 2):
            running.create_task(one(number))
            running.create_task(one_joined(number + SEED))


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # the launcher may have ended it
            os.kill(pid, number)
