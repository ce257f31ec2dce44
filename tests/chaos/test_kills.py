"""Kill any process at any time: no job is lost or runs twice, and no video is incomplete."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.chaos.checker import Evidence, violations
from tests.chaos.client import Client, Witness
from tests.chaos.server import ChaosServer

SEED = 20260131
LIMIT_S = 60.0
NUM_GROUPS, NUM_RANKS = 2, 4
TARGETS = (
    "front",
    "broker",
    "launcher",
    "rank",
    "leader",
    "all",
    "broker and front",
    "both groups",
)


class KillMatrix:
    """Submits, cancels and kills at random, then collects the evidence."""

    def __init__(self, server: ChaosServer, client: Client, witness: Witness) -> None:
        self._random = random.Random(SEED)
        self._server = server
        self._client = client
        self.witness = witness

    async def cycle(self, target: str) -> None:
        """Kill a target while jobs arrive, run and are cancelled; wait until all is healthy."""
        work = [asyncio.create_task(self._submit()) for _ in range(3)]
        if self.witness.accepted:
            job_id = self._random.choice(self.witness.accepted[-6:])
            work.append(asyncio.create_task(self._cancel(job_id)))
        # A random moment; there is no event to await.
        await asyncio.sleep(self._random.uniform(0.0, 0.6))
        await self._kill(target)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*work)
            await self._server.until_healthy()

    async def _submit(self) -> str | None:
        # Some preempt a running job.
        return await self._client.submit(priority=self._random.choice("001"))

    async def _cancel(self, job_id: str) -> None:
        await self._client.cancel(job_id)

    async def _kill(self, target: str) -> None:
        server = self._server
        ranks = [list(pids.values()) for pids in server.ledger.pids().values()]
        match target:
            case "front" | "broker":
                server.kill(server.pid_of(_MODULES[target]))
            case "broker and front":
                server.kill(*(server.pid_of(module) for module in _MODULES.values()))
            case "rank":
                server.kill(self._random.choice(self._random.choice(ranks)))
            case "leader":
                server.kill(self._random.choice(ranks)[0])
            case "both groups":
                server.kill(*(self._random.choice(pids) for pids in ranks))
            case "all":
                server.kill(server.life.process.pid, *server.life.pids())
                await server.kill_launcher()
            case _:
                await server.kill_launcher()
        if server.life.process.returncode is not None:
            await server.start()
            self._client.url = server.life.url

    async def finish(self) -> Evidence:
        """Let every job end, stop the server, and return the evidence."""
        async with asyncio.timeout(LIMIT_S + 0.5 * len(self.witness.accepted)):
            for job_id in self.witness.accepted:
                await self._client.until_ended(job_id)
        assert await self._server.life.stop() == 0
        ledger = self._server.ledger.read()
        return Evidence.gather(self._server.state_dir, ledger, self.witness)


_MODULES = {"front": "http_front", "broker": "broker"}


@pytest.fixture
async def matrix(tmp_path: Path) -> AsyncIterator[KillMatrix]:
    server = ChaosServer(tmp_path, groups=NUM_GROUPS, nproc=NUM_RANKS)
    witness = Witness()
    try:
        await server.start()
        async with aiohttp.ClientSession() as session:
            client = Client(session, witness)
            client.url = server.life.url
            yield KillMatrix(server, client, witness)
    finally:
        server.end()


async def test_no_kill_at_any_time_loses_or_doubles_a_job(matrix: KillMatrix, cycles: int) -> None:
    order = random.Random(SEED)
    for number in range(0, cycles, len(TARGETS)):
        for target in order.sample(TARGETS, min(len(TARGETS), cycles - number)):
            await matrix.cycle(target)
    evidence = await matrix.finish()
    assert violations(evidence) == []
    assert len(matrix.witness.accepted) > cycles
