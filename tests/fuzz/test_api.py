"""A stranger with a key tries all that the OpenAPI document allows, and all that it does not.

Seen to fail with bodies whose bad JSON, or whose wrong fields, raise what nobody catches.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest_asyncio

from http_front.access.keys import ApiKey, Limits, hash_key, make_key, write_keys
from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import Caller

CONFIG = Path(__file__).with_name("schemathesis.toml")
MAX_GROWTH_BYTES = 50 << 20
DRAIN_LIMIT_S = 60.0
FRONT = "tests.fuzz.front"
PARTS = ("broker", FRONT)
ADMIN_PATHS = ("/admin/cleanup", "/metrics")
DRAIN_PATH = "/admin/drain"
WIDE = Limits(
    submits_per_minute=10**9, requests_per_second=10**9, queue_share=10**9, websockets=10**9
)


@dataclass(frozen=True)
class Besieged:
    """A whole server, but for the ranks; a stranger's key and a well-behaved client's."""

    server: ChaosServer
    stranger: str
    friend: str
    admin: str

    def processes(self) -> dict[str, int]:
        """Every process that must still be there afterwards, by its name."""
        ranks = self.server.life.pids("stub_ranks")
        found = {f"rank {number}": pid for number, pid in enumerate(sorted(ranks))}
        for part in PARTS:
            pid = self.server.pid_of(part)
            assert pid is not None
            found[part] = pid
        return found


@pytest_asyncio.fixture
async def besieged(tmp_path: Path) -> AsyncIterator[Besieged]:
    file, names = tmp_path / "keys", ("stranger", "friend", "admin")
    keys = [make_key() for _ in names]
    write_keys(
        file,
        [
            ApiKey(name=name, sha256=hash_key(key), limits=WIDE, admin=name == "admin")
            for name, key in zip(names, keys, strict=True)
        ],
    )
    # Long enough for a job to be there when it is asked for a moment later, on a busy machine too.
    flags = ["--api-keys", str(file), "--job-ttl", "60"]
    async with chaos_server(tmp_path, flags=flags, front_module=FRONT, step_s=0.001) as server:
        yield Besieged(server, *keys)


async def test_no_request_finds_a_fault(besieged: Besieged, num_examples: int) -> None:
    before = besieged.processes()
    await attack(besieged, 10)  # what is loaded on first use is no growth
    memory = {part: memory_bytes(before[part]) for part in PARTS}
    attacking = asyncio.create_task(attack_as_all(besieged, num_examples))
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
    assert await drain(besieged) == 0


async def attack_as_all(besieged: Besieged, num_examples: int) -> None:
    """Attack as a stranger, and where only an administrator comes as one."""
    await attack(besieged, num_examples)
    chosen = [word for path in ADMIN_PATHS for word in ("--include-path", path)]
    phases = ["--phases", "examples,coverage,fuzzing"]  # no links lead there
    await attack(besieged, num_examples, besieged.admin, *chosen, *phases)


async def attack(
    besieged: Besieged, num_examples: int, key: str | None = None, *options: str
) -> None:
    """Let schemathesis try operations; it ends with 0 if it has found nothing."""
    command = [
        *("-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color", "run"),
        f"{besieged.server.life.url}/openapi.json",
        *("--checks", "all", "--max-examples", str(num_examples), "--continue-on-failure"),
        *("--seed", "1", "--generation-database", "none"),
        *("--header", f"Authorization: Bearer {key or besieged.stranger}", *options),
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONHASHSEED": "0"},  # the seed alone leaves the order of sets open
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, told.decode()


async def drain(besieged: Besieged) -> int:
    """Send all kinds of requests that shall not end the server, then the one that does.

    Returns:
        The server's exit code.
    """
    async with aiohttp.ClientSession(besieged.server.life.url) as session:
        for key, method, status in (
            (None, "POST", 401),
            ("wan_", "POST", 401),
            (besieged.stranger, "POST", 403),
            (besieged.admin, "GET", 405),
            (besieged.admin, "DELETE", 405),
            (besieged.admin, "POST", 202),
        ):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            async with session.request(
                method, DRAIN_PATH, headers=headers, data=b"{nothing that is read"
            ) as response:
                assert response.status == status
    return await asyncio.to_thread(besieged.server.life.process.wait, DRAIN_LIMIT_S)


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
