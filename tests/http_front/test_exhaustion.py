"""A front and a broker that cannot open more files: nothing is lost, and both recover."""

import asyncio
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from broker.config import BrokerConfig
from broker.wire.job import JobState
from broker.wire.replies import ExpiredRemoved, JobFound
from broker.wire.requests import CancelJob, RemoveExpired
from http_front.config import FrontConfig
from tests.broker.driver import Front, broker_config, changed_config, running_broker
from tests.http_front.serving import PROMPT, picture

LIMIT_S = 30.0


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """Keep a process from opening more files; its open files stay open."""
    numbers = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    first_free = min(set(range(len(numbers) + 1)) - numbers)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.fixture
def config() -> Iterator[BrokerConfig]:
    # Not in tmp_path, whose path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as folder:
        yield broker_config(Path(folder))


async def test_a_broker_without_file_descriptors_serves_its_connected_clients(
    config: BrokerConfig,
) -> None:
    config = changed_config(config, job_ttl_s=0.0)
    async with running_broker(config) as broker, Front(config) as front:
        job_id = await front.submit_ok()
        with no_more_files(broker.process.pid):
            kept = await front.submit_ok()
            assert isinstance(await front.ask(CancelJob(job_id=job_id)), JobFound)
            assert isinstance(await front.ask(RemoveExpired()), ExpiredRemoved)
            assert (await front.get(kept)).state is JobState.IN_QUEUE
        async with Front(config) as late:
            assert (await late.get(kept)).state is JobState.IN_QUEUE
        assert await broker.stop() == 0


async def test_a_broker_may_open_as_many_files_as_the_system_lets_it(config: BrokerConfig) -> None:
    """With the usual limit of 1,024, libzmq aborts the process at the next connection."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(usual, 1024), most))
    try:
        async with running_broker(config) as broker:
            found = resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
    assert found == (most, most)


@asynccontextmanager
async def front_process(
    config: BrokerConfig, log: int | None = None
) -> AsyncIterator[tuple[int, str]]:
    """Run a front as a process that logs to a descriptor; yield its pid and URL."""
    state_dir = Path(config.state_dir)
    read_fd, ready_fd = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = FrontConfig(
            addresses=config.addresses,
            store=str(state_dir),
            listen_fd=listener.fileno(),
            parent_pid=os.getpid(),
            ready_fd=ready_fd,
        )
        command = (sys.executable, "-m", "http_front", msgspec.json.encode(front).decode())
        fds = (listener.fileno(), ready_fd)
        process = await asyncio.create_subprocess_exec(*command, pass_fds=fds, stderr=log)
        os.close(ready_fd)
        try:
            assert await asyncio.to_thread(os.read, read_fd, 6) == b"ready\n"
            yield process.pid, f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert process.returncode is None, "the front has stopped"
        finally:
            os.close(read_fd)
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def submit(session: aiohttp.ClientSession, width_px: int = 96) -> tuple[int, str | None]:
    """Return the status and the Retry-After header."""
    form = aiohttp.FormData({"prompt": PROMPT})
    form.add_field("image", picture(width_px), filename="cat.png")
    async with session.post("/video/submit", data=form) as response:
        return response.status, response.headers.get("Retry-After")


async def test_a_front_without_file_descriptors_says_so_and_recovers(config: BrokerConfig) -> None:
    """The response is 503 with Retry-After, so that clients try again."""
    async with running_broker(config), front_process(config) as (pid, url):
        async with aiohttp.ClientSession(url) as session, asyncio.timeout(LIMIT_S):
            assert (await submit(session))[0] == 202
            with no_more_files(pid):
                assert await submit(session, width_px=112) == (503, "5")
                async with session.get("/live") as response:
                    assert response.status == 200
            assert (await submit(session))[0] == 202
        async with aiohttp.ClientSession(url) as another, asyncio.timeout(LIMIT_S):
            assert (await submit(another))[0] == 202


async def test_a_front_whose_log_nothing_reads_still_answers(
    config: BrokerConfig,
) -> None:
    """A pager or a stalled log driver would stop the server after 64 KiB, 700 requests."""
    read_end, write_end = os.pipe()
    path = "/static/" + "x" * 150
    async with front_process(config, write_end) as (_, url):
        os.close(write_end)
        async with aiohttp.ClientSession(url) as session, asyncio.timeout(LIMIT_S):
            for _ in range(700):
                async with session.get(path) as response:
                    assert response.status == 404
        reader = asyncio.create_task(asyncio.to_thread(read_all, read_end))
    assert (await reader).count(path) == 700


def read_all(fd: int) -> str:
    with os.fdopen(fd) as file:
        return file.read()
