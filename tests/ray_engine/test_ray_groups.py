"""A server whose groups Ray places: real nodes, and real ranks on CPUs."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ray.util import get_node_ip_address

from broker.wire.curve import make_keys
from launcher.doctor.findings import Finding
from launcher.options import Options
from launcher.preflight import Folders
from launcher.ray.ray_check import check_cluster
from launcher.ray.ray_groups import join_address
from tests.free_port import free_port
from tests.ray_engine.cluster import NPROC, RayCluster
from tests.running_server import ROOT, Caller, RunningServer, calling, until

pytestmark = pytest.mark.ray

LOAD_LIMIT_S = 180.0
GONE_LIMIT_S = 20.0
NUM_STEPS, LOST_AT, CHECKPOINT_STEPS = 40, 9, 2


class RayServer:
    """A server whose groups run in a Ray cluster."""

    def __init__(self, cluster: RayCluster, model: Path, state_dir: Path, groups: int) -> None:
        self.state_dir = state_dir
        self.address = cluster.address
        keys, _ = make_keys(state_dir.parent / "keys")
        self.flags = [
            *("--engine", "ray", "--ray-address", cluster.address),
            *("--listen", f"tcp://127.0.0.1:{free_port()}", "--curve-keys", str(keys)),
            *("--groups", str(groups), "--nproc", str(NPROC), "--device", "cpu"),
            *(
                "--model-path",
                str(model),
                "--port",
                "0",
                "--checkpoint-steps",
                str(CHECKPOINT_STEPS),
            ),
        ]

    def start(self) -> RunningServer:
        return RunningServer(self.state_dir, *self.flags, command=["launch.py"])

    async def nodes_of_groups(self) -> dict[str, str]:
        """Return the node of each group."""
        options = Options(ray_address=self.address)
        folders = Folders.under(str(self.state_dir))
        cluster = await asyncio.to_thread(check_cluster, options, folders)
        return {p.group: p.node.name for p in cluster.placements if p.node}

    async def doctor(self, *flags: str) -> list[Finding]:
        command = [sys.executable, "-m", "launcher.wan", "doctor", "--json", *self.flags, *flags]
        command += ["--state-dir", str(self.state_dir)]
        answer = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, capture_output=True, check=False
        )
        return msgspec.json.decode(answer.stdout, type=dict[str, list[Finding]])["findings"]


@asynccontextmanager
async def running(ray_server: RayServer) -> AsyncIterator[RunningServer]:
    server = ray_server.start()
    try:
        await server.wait_until_ready()
        yield server
    finally:
        server.end()


async def health(caller: Caller) -> dict[str, Any]:
    async with caller.session.get("/health") as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def until_healthy(caller: Caller, ready_groups: int, running: int = 0) -> None:
    """Wait until exactly so many groups are ready and jobs running."""
    async with asyncio.timeout(LOAD_LIMIT_S):
        while True:
            answer = await health(caller)
            if (answer.get("ready_groups"), answer.get("running")) == (ready_groups, running):
                return
            await asyncio.sleep(0.05)


async def submit(caller: Caller, seed: int) -> str:
    return await caller.submit(seed=str(seed), infer_steps=str(NUM_STEPS))


async def video(caller: Caller, job_id: str) -> bytes:
    async with caller.session.get(f"/videos/{job_id}.mp4") as response:
        assert response.status == 200
        return await response.read()


async def run_two(caller: Caller, *seeds: int) -> list[str]:
    """Run a job on each group at the same time; return the jobs."""
    jobs = [await submit(caller, seed) for seed in seeds]
    await until_healthy(caller, ready_groups=2, running=2)
    for job_id in jobs:
        await caller.wait_for(job_id, LOAD_LIMIT_S, status="Succeed", attempt=1)
    return jobs


async def test_the_job_of_a_lost_node_resumes_elsewhere_and_a_returned_node_is_used(
    cluster: RayCluster, model: Path, tmp_path: Path
) -> None:
    ray_server = RayServer(cluster, model, tmp_path / "state", groups=2)
    async with running(ray_server) as server, calling(server) as caller:
        await until_healthy(caller, ready_groups=2)
        assert len(cluster.pids_of_groups("ranks")) >= 2 * NPROC
        undisturbed, _ = await run_two(caller, 7, 8)

        nodes = await ray_server.nodes_of_groups()
        disturbed = await submit(caller, 7)
        await caller.wait_for(disturbed, LOAD_LIMIT_S, stage="denoise", step=LOST_AT)
        begun = await server.wait_until_logged(f"[{disturbed}] InProgress, attempt 1 on group ")
        lost = begun.split()[-1]
        cluster.lose_node(nodes[lost])
        await caller.wait_for(disturbed, LOAD_LIMIT_S, status="Succeed", attempt=2)
        assert await video(caller, disturbed) == await video(caller, undisturbed)
        assert re.findall(r"goes on after step (\d+)", cluster.log())
        await server.wait_until_logged(f"group {lost} waits for a node with {NPROC} CPU")

        cluster.return_node()
        await until_healthy(caller, ready_groups=2)
        await run_two(caller, 9, 10)

        last = await submit(caller, 11)
        await caller.wait_for(last, LOAD_LIMIT_S, stage="denoise")
        assert await server.stop(LOAD_LIMIT_S) == 0
    assert f"[{last}] Succeed" in server.log()
    assert cluster.pids_of_groups() == []


async def test_a_launcher_that_is_killed_leaves_nothing_on_any_node(
    cluster: RayCluster, model: Path, tmp_path: Path
) -> None:
    """First, the doctor reports the placements, and a group that is killed alone restarts."""
    ray_server = RayServer(cluster, model, tmp_path / "state", groups=3)
    async with running(ray_server) as server:
        await until(lambda: len(cluster.pids_of_groups()) >= 2 * NPROC, LOAD_LIMIT_S)
        line = await server.wait_until_logged(f" waits for a node with {NPROC} CPU")
        findings = [f for f in await ray_server.doctor() if f.topic in ("ray", "placement")]
        os.kill(cluster.pids_of_groups("launch")[0], signal.SIGKILL)
        await server.wait_until_logged(" was ended by SIGKILL: ")
        await until(lambda: server.log().count(" is on node ") == 3, LOAD_LIMIT_S)
        server.process.kill()
        await server.wait_until_gone(GONE_LIMIT_S)
        await until(lambda: not cluster.pids_of_groups(), GONE_LIMIT_S)
    waiting = line.split(" group ")[1].split()[0]
    messages = sorted((f.level, f.message.partition(" on node ")[0]) for f in findings)
    others = sorted({"ray0-g0", "ray1-g0", "ray2-g0"} - {waiting})
    assert messages == [
        *(("ok", f"group {group} is") for group in others),
        ("warning", f"group {waiting} waits for a node with 4 CPU"),
        ("warning", "room for 2 of 3 groups of 4 CPU; the others will wait"),
    ]


async def test_nodes_that_are_too_small_are_reported(
    cluster: RayCluster, model: Path, tmp_path: Path
) -> None:
    ray_server = RayServer(cluster, model, tmp_path / "state", groups=1)
    (finding,) = (f for f in await ray_server.doctor("--nproc", "8") if f.topic == "ray")
    assert finding.level == "error"
    assert finding.message == "no node has room for groups of 8 CPU; the largest has 4"


def test_groups_join_a_server_on_0_0_0_0_at_the_address_of_its_node() -> None:
    assert join_address("tcp://127.0.0.1:5570") == "tcp://127.0.0.1:5570"
    for host in ("0.0.0.0", "*"):
        expected = f"tcp://{get_node_ip_address()}:5570"
        assert join_address(f"tcp://{host}:5570") == expected
