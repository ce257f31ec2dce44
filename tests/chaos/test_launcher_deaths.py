"""A killed launcher leaves nothing behind; ranks that cannot load stop it with their error."""

import asyncio
import time
from pathlib import Path

import aiohttp

from tests.chaos.client import Client, Witness
from tests.chaos.server import ChaosServer, chaos_server
from tests.running_server import until

NUM_LIVES, NUM_LIVES_LONG = 6, 20
GONE_S = 5.0
UNIX_SOCKETS = Path("/proc/net/unix")


def num_bound(server: ChaosServer) -> int:
    """Return the number of Unix sockets bound in the state directory."""
    return UNIX_SOCKETS.read_text().count(str(server.state_dir))


async def test_a_killed_launcher_leaves_no_process_and_no_socket(
    tmp_path: Path, is_long: bool
) -> None:
    async with chaos_server(tmp_path) as server:
        for _ in range(NUM_LIVES_LONG if is_long else NUM_LIVES):
            async with aiohttp.ClientSession() as session:
                client = Client(session, Witness())
                client.url = server.life.url
                assert await client.submit()  # so that an image decoder also runs
            assert len(server.life.pids()) >= 12
            assert num_bound(server) >= 4
            killed_at = time.monotonic()
            await server.kill_launcher()
            # An ending process frees its memory, and with it its environment, before its sockets.
            await until(lambda: num_bound(server) == 0, GONE_S)
            assert time.monotonic() - killed_at < GONE_S
            await server.start()


async def test_ranks_that_cannot_load_end_the_server_at_the_fifth_start(tmp_path: Path) -> None:
    server = ChaosServer(tmp_path, load_error="the weights are damaged", max_failures=5)
    try:
        server.spawn()
        assert await asyncio.to_thread(server.life.process.wait, 30.0) == 1
        await server.life.wait_until_gone(GONE_S)
        log = server.life.log()
        assert log.count("starting 8 ranks") == 5
        last = "group g0 does not stay alive; the last time: rank 0: the weights are damaged"
        assert log.rstrip().endswith(f"stopped: {last}")
    finally:
        server.end()
