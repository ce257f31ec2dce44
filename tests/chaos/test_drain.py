"""Planned stops: a running job finishes, or returns to the queue without a lost attempt."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.dispatch.job_record import Job
from broker.journal.journal import Journal
from broker.wire.job import JobState
from tests.chaos.server import ChaosServer
from tests.running_server import calling

LONG: dict[str, Any] = {"num_steps": 10_000}


def journal_of(server: ChaosServer) -> list[Job]:
    """Return the jobs in the journal of a server that has stopped."""
    journal = Journal(server.state_dir / "jobs.sqlite3")
    try:
        return journal.load()
    finally:
        journal.close()


async def exit_code(server: ChaosServer) -> int:
    return await asyncio.to_thread(server.life.process.wait, 30)


async def drain(session: aiohttp.ClientSession) -> dict[str, Any]:
    async with session.post("/admin/drain") as response:
        assert response.status == 202
        answer: dict[str, Any] = await response.json()
        return answer


async def test_a_drain_lets_the_running_job_finish_and_ends_the_server(tmp_path: Path) -> None:
    server = ChaosServer(tmp_path, num_steps=100)
    try:
        await server.start()
        async with calling(server.life) as caller:
            first, second = await caller.submit(), await caller.submit()
            await caller.wait_for(first, stage="denoise")
            assert await drain(caller.session) == {"status": "draining", "running": 1}
            await drain(caller.session)
            async with caller.session.get("/health") as response:
                assert response.status == 503
                assert (await response.json())["status"] == "draining"
        assert await exit_code(server) == 0
        done, waiting = journal_of(server)
        assert (done.job_id, done.state, done.attempt) == (first, JobState.SUCCEED, 1)
        assert (waiting.job_id, waiting.state, waiting.attempt) == (second, JobState.IN_QUEUE, 0)
    finally:
        server.end()


async def test_broker_and_front_are_restarted_during_a_drain(
    tmp_path: Path,
) -> None:
    server = ChaosServer(tmp_path, num_steps=250)
    try:
        await server.start()
        async with calling(server.life) as caller:
            first, second = await caller.submit(), await caller.submit()
            await caller.wait_for(first, stage="denoise")
            await drain(caller.session)
        await server.life.wait_until_logged("drain: stopping")
        server.kill(server.pid_of("broker"), server.pid_of("http_front"))
        assert await exit_code(server) == 0
        for part in ("broker", "front"):
            assert server.life.log().count(f"{part} ready, pid") == 2
        done, waiting = journal_of(server)
        assert (done.job_id, done.state, done.attempt) == (first, JobState.SUCCEED, 1)
        assert (waiting.job_id, waiting.state, waiting.attempt) == (second, JobState.IN_QUEUE, 0)
    finally:
        server.end()


@pytest.mark.parametrize("way", ["SIGTERM", "HTTP"])
async def test_a_job_that_does_not_finish_in_time_loses_no_attempt(
    tmp_path: Path, way: str
) -> None:
    server = ChaosServer(tmp_path, **LONG)
    server._flags += ["--drain-timeout", "0.5"]
    try:
        await server.start()
        async with calling(server.life) as caller:
            job_id = await caller.submit()
            await caller.wait_for(job_id, stage="denoise")
            if way == "HTTP":
                await drain(caller.session)
        if way == "SIGTERM":
            server.life.process.send_signal(signal.SIGTERM)
        assert await exit_code(server) == 0
        (job,) = journal_of(server)
        assert (job.job_id, job.state, job.num_lost) == (job_id, JobState.IN_QUEUE, 0)
    finally:
        server.end()


async def test_another_group_runs_the_job_of_a_group_that_never_returns(tmp_path: Path) -> None:
    larger = ChaosServer(tmp_path, groups=2, nproc=2, **LONG)
    try:
        await larger.start()
        async with calling(larger.life) as caller:
            jobs = [await caller.submit(), await caller.submit()]
            for job_id in jobs:
                await caller.wait_for(job_id, stage="denoise")
        await larger.kill_launcher()
    finally:
        larger.end()
    smaller = ChaosServer(tmp_path, groups=1, nproc=2)
    try:
        await smaller.start()
        async with calling(smaller.life) as caller:
            for job_id in jobs:
                done = await caller.wait_for(job_id, status="Succeed")
                assert done["attempt"] == 2
    finally:
        smaller.end()
