"""The folder of the sockets is lost or unusable while the server runs."""

import asyncio
import os
import shutil
from pathlib import Path

import aiohttp
import zmq
import zmq.asyncio

from broker.wire.sockets import bind_sub, connect_pub
from launcher.heartbeat_relay import HeartbeatRelay
from tests.chaos.client import Client, Witness
from tests.chaos.server import chaos_server
from tests.free_port import free_port
from tests.running_server import RunningServer
from tests.test_joining import open_site

HEALED_S = 15.0
LIMIT_S = 20.0


async def test_a_broker_that_dies_without_its_folder_comes_back(tmp_path: Path) -> None:
    async with chaos_server(tmp_path, nproc=2) as server, aiohttp.ClientSession() as session:
        client = Client(session, Witness())
        client.url = server.life.url
        shutil.rmtree(server.state_dir / "run")
        server.kill(server.pid_of("broker"))
        async with asyncio.timeout(HEALED_S):
            await server.until_healthy()
            done = await client.until_ended(await client.submit())
        assert done["status"] == "Succeed"
        assert await server.life.stop() == 0


async def test_a_broker_that_never_binds_again_is_given_up_with_its_reason(tmp_path: Path) -> None:
    async with chaos_server(tmp_path, nproc=2, max_failures=3) as server:
        path = server.state_dir / "run" / "groups.sock"
        path.unlink()
        path.mkdir()
        server.kill(server.pid_of("broker"))
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.to_thread(server.life.process.wait, LIMIT_S) == 1
        assert server.life.log().count("groups.sock: Address already in use") == 2
        assert "broker does not stay alive" in server.life.log()


async def test_a_launcher_that_cannot_bind_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "far" / "run" / "beats.sock").mkdir(parents=True)
    async with open_site(tmp_path, groups=0) as site:
        options = ["--join", site.address, "--curve-keys", str(site.peer_keys), "--device", "cpu"]
        options += ["--store", str(site.server.state_dir), "--model-path", str(tmp_path / "model")]
        far = RunningServer(tmp_path / "far", *options, command=["launch.py", "group"])
        try:
            async with asyncio.timeout(LIMIT_S):
                assert await asyncio.to_thread(far.process.wait, LIMIT_S) == 1
        finally:
            far.end()
    *earlier, line = far.log().splitlines()
    assert all(" INFO launcher " in each for each in earlier)
    assert line.startswith("launch.py: cannot bind ")
    assert "beats.sock: Address already in use" in line


async def test_ranks_reach_a_relay_whose_socket_file_was_removed(tmp_path: Path) -> None:
    ranks = f"ipc://{tmp_path.parent}/b.sock"
    far = f"tcp://127.0.0.1:{free_port()}"
    path = Path(ranks.removeprefix("ipc://"))
    relay = HeartbeatRelay(ranks, far)
    running = asyncio.create_task(relay.run())
    with zmq.asyncio.Context() as context:
        try:
            with bind_sub(context.socket(zmq.SUB), far) as broker:
                os.unlink(path)
                relay.restore_socket()
                with connect_pub(context.socket(zmq.PUB), ranks) as rank:
                    async with asyncio.timeout(LIMIT_S):
                        while not await broker.poll(50):
                            await rank.send(b"alive")
        finally:
            running.cancel()
            relay.close()
