"""A stranger with a key tries all that the OpenAPI document allows, and all that it does not.

Seen to fail with bodies whose bad JSON, or whose wrong fields, raise what nobody catches.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest_asyncio

from http_front.keys import ApiKey, Limits, hash_key, make_key, write_keys
from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import Caller

CONFIG = Path(__file__).with_name("schemathesis.toml")
MAX_GROWTH_BYTES = 50 << 20
WIDE = Limits(
    submits_per_minute=10**9, requests_per_second=10**9, queue_share=10**9, websockets=10**9
)


@dataclass(frozen=True)
class Besieged:
    """A whole server, but for the ranks; a stranger's key and a well-behaved client's."""

    server: ChaosServer
    stranger: str
    friend: str

    def processes(self) -> dict[str, int]:
        """Every process that must still be there afterwards, by its name."""
        ranks = self.server.life.pids("stub_ranks")
        found = {f"rank {number}": pid for number, pid in enumerate(sorted(ranks))}
        for part in ("broker", "http_front"):
            pid = self.server.pid_of(part)
            assert pid is not None
            found[part] = pid
        return found


@pytest_asyncio.fixture
async def besieged(tmp_path: Path) -> AsyncIterator[Besieged]:
    keys, stranger, friend = tmp_path / "keys", make_key(), make_key()
    write_keys(
        keys,
        [
            ApiKey(name="stranger", sha256=hash_key(stranger), limits=WIDE),
            ApiKey(name="friend", sha256=hash_key(friend), limits=WIDE),
        ],
    )
    flags = ["--api-keys", str(keys), "--job-ttl", "5"]
    async with chaos_server(tmp_path, flags=flags, step_s=0.001) as server:
        yield Besieged(server, stranger, friend)


async def test_no_request_finds_a_fault(besieged: Besieged, num_examples: int) -> None:
    before = besieged.processes()
    await attack(besieged, 10)  # what is loaded on first use is no growth
    memory = {part: memory_bytes(before[part]) for part in ("broker", "http_front")}
    attacking = asyncio.create_task(attack(besieged, num_examples))
    num_videos = await make_videos(besieged, attacking)
    await attacking
    assert num_videos >= 2
    assert besieged.processes() == before
    for part, start_bytes in memory.items():
        grown = memory_bytes(before[part]) - start_bytes
        assert grown < MAX_GROWTH_BYTES, f"{part} has grown by {grown >> 20} MiB"
    log = besieged.server.life.log()
    assert "Traceback" not in log
    assert besieged.stranger not in log


async def attack(besieged: Besieged, num_examples: int) -> None:
    """Let schemathesis try every operation; it ends with 0 if it has found nothing."""
    command = [
        *("-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color", "run"),
        f"{besieged.server.life.url}/openapi.json",
        *("--checks", "all", "--max-examples", str(num_examples), "--continue-on-failure"),
        *("--seed", "1", "--generation-database", "none"),
        *("--header", f"Authorization: Bearer {besieged.stranger}"),
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, told.decode()


async def make_videos(besieged: Besieged, attacking: asyncio.Task[None]) -> int:
    """Have videos made, one after the other, while the attack lasts; return how many."""
    headers = {"Authorization": f"Bearer {besieged.friend}"}
    num_videos = 0
    async with aiohttp.ClientSession(besieged.server.life.url, headers=headers) as session:
        caller = Caller(session)
        while not attacking.done():
            await caller.wait_for(await caller.submit(), status="Succeed")
            num_videos += 1
    return num_videos


def memory_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} has gone")
