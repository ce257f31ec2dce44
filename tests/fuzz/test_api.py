"""A client with a key sends valid and invalid requests for every documented operation."""

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
    """A whole server without ranks, and the keys of an attacker, a user and an administrator."""

    server: ChaosServer
    attacker: str
    user: str
    admin: str

    def processes(self) -> dict[str, int]:
        """Return the pids of all processes that must survive, by name."""
        ranks = self.server.life.pids("stub_ranks")
        found = {f"rank {number}": pid for number, pid in enumerate(sorted(ranks))}
        for part in PARTS:
            pid = self.server.pid_of(part)
            assert pid is not None
            found[part] = pid
        return found


@pytest_asyncio.fixture
async def besieged(tmp_path: Path) -> AsyncIterator[Besieged]:
    file, names = tmp_path / "keys", ("attacker", "user", "admin")
    keys = [make_key() for _ in names]
    write_keys(
        file,
        [
            ApiKey(name=name, sha256=hash_key(key), limits=WIDE, admin=name == "admin")
            for name, key in zip(names, keys, strict=True)
        ],
    )
    # Long enough that a job still exists when it is requested a moment later on a busy machine.
    flags = ["--api-keys", str(file), "--job-ttl", "60"]
    async with chaos_server(tmp_path, flags=flags, front_module=FRONT, step_s=0.001) as server:
        yield Besieged(server, *keys)


async def test_no_request_breaks_the_server(besieged: Besieged, num_examples: int) -> None:
    before = besieged.processes()
    await attack(besieged, 10)  # memory used on first use does not count as growth
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
    assert besieged.attacker not in log
    assert await drain(besieged) == 0


async def attack_as_all(besieged: Besieged, num_examples: int) -> None:
    """Attack with the attacker's key, and the admin routes with the administrator's key."""
    await attack(besieged, num_examples)
    chosen = [word for path in ADMIN_PATHS for word in ("--include-path", path)]
    phases = ["--phases", "examples,coverage,fuzzing"]  # no links point to these routes
    await attack(besieged, num_examples, besieged.admin, *chosen, *phases)


async def attack(
    besieged: Besieged, num_examples: int, key: str | None = None, *options: str
) -> None:
    """Run schemathesis; it exits with 0 if it finds no failure."""
    command = [
        *("-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color", "run"),
        f"{besieged.server.life.url}/openapi.json",
        *("--checks", "all", "--max-examples", str(num_examples), "--continue-on-failure"),
        *("--seed", "1", "--generation-database", "none"),
        *("--header", f"Authorization: Bearer {key or besieged.attacker}", *options),
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONHASHSEED": "0"},  # the order of sets depends on it, too
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()


async def drain(besieged: Besieged) -> int:
    """Send requests that must not stop the server, then the one that does; return its exit code."""
    async with aiohttp.ClientSession(besieged.server.life.url) as session:
        for key, method, status in (
            (None, "POST", 401),
            ("wan_", "POST", 401),
            (besieged.attacker, "POST", 403),
            (besieged.admin, "GET", 405),
            (besieged.admin, "DELETE", 405),
            (besieged.admin, "POST", 202),
        ):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            async with session.request(
                method, DRAIN_PATH, headers=headers, data=b"{the body is ignored"
            ) as response:
                assert response.status == status
    return await asyncio.to_thread(besieged.server.life.process.wait, DRAIN_LIMIT_S)


async def make_videos(besieged: Besieged, attacking: asyncio.Task[None]) -> int:
    """Make videos one after the other during the attack; return how many."""
    headers = {"Authorization": f"Bearer {besieged.user}"}
    num_videos = 0
    async with aiohttp.ClientSession(besieged.server.life.url, headers=headers) as session:
        caller = Caller(session)
        while not attacking.done():
            await caller.wait_for(await caller.submit(), status="Succeed")
            num_videos += 1
    return num_videos


def memory_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} has ended")
