"""More clients than the server can serve: it refuses them, and its memory does not grow."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from tests.chaos.client import Client, Witness
from tests.chaos.server import ChaosServer, chaos_server
from tests.http_front.live.test_slow_watcher import upgrade_and_never_read
from tests.running_server import until

NUM_SUBMITS, NUM_SUBMITS_LONG = 2_000, 10_000
NUM_SUBMITTERS = 20
MAX_QUEUE = 5
NUM_SILENT = 200
NUM_CHANGES = 2_000
MAX_GROWTH_BYTES = 50 << 20
MAX_MISSED_BYTES = 100 << 20
"""On a busy machine every watcher has the 256 changes that it missed, a third of a megabyte."""


def resident_bytes(server: ChaosServer) -> int:
    """Return the current memory of broker and front together."""
    return _memory_bytes(server, "VmRSS")


def highest_bytes(server: ChaosServer) -> int:
    """Return the peak memory of broker and front together."""
    return _memory_bytes(server, "VmHWM")


def _memory_bytes(server: ChaosServer, field: str) -> int:
    total = 0
    for module in ("broker", "http_front"):
        status = Path(f"/proc/{server.pid_of(module)}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith(field))
        total += int(line.split()[1]) * 1024
    return total


@asynccontextmanager
async def busy(
    folder: Path, **settings: object
) -> AsyncIterator[tuple[ChaosServer, Client, Witness]]:
    """Run a server whose only group is held in an attempt."""
    async with (
        chaos_server(folder, **settings) as server,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, witness := Witness())
        client.url = server.life.url
        server.faults.set("denoise", "hold")
        await client.submit()
        await until(lambda: server.faults.is_reached("denoise"), 10.0)
        yield server, client, witness


async def submit_often(client: Client, count: int) -> None:
    for _ in range(count):
        await client.submit()


async def test_a_full_queue_refuses_at_once_and_keeps_nothing(
    tmp_path: Path, is_long: bool
) -> None:
    count = NUM_SUBMITS_LONG if is_long else NUM_SUBMITS
    async with busy(tmp_path, max_queue=MAX_QUEUE) as (server, client, witness):
        await submit_often(client, MAX_QUEUE + 50)
        before = resident_bytes(server)
        witness.answers.clear()
        await asyncio.gather(
            *(submit_often(client, count // NUM_SUBMITTERS) for _ in range(NUM_SUBMITTERS))
        )
        assert witness.answers == Counter({"/video/submit 429": count})
        assert witness.num_without_retry_after == 0
        assert highest_bytes(server) - before < MAX_GROWTH_BYTES
        assert len(list((server.state_dir / "inputs").iterdir())) <= 2


async def test_watchers_that_never_read_use_no_more_than_their_buffers(tmp_path: Path) -> None:
    async with (
        chaos_server(tmp_path, step_s=0.004, num_steps=NUM_CHANGES) as server,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, Witness())
        client.url = server.life.url
        server.faults.set("denoise", "hold")
        job_id = await client.submit() or ""
        port = int(client.url.rpartition(":")[2])
        with ExitStack() as stack:
            for _ in range(NUM_SILENT):
                stack.enter_context(await upgrade_and_never_read(port, job_id))
            before = resident_bytes(server)
            server.kill(server.ledger.pids()["g0"][0])  # the next attempt is not held
            assert (await client.until_ended(job_id))["status"] == "Succeed"
            assert highest_bytes(server) - before < MAX_MISSED_BYTES
