"""A server whose groups are placed by Ray: real nodes, real ranks on processors."""

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


class RayGroups:
    """The options of a server with groups in a cluster."""

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
        """Start the server, and wait for nothing."""
        return RunningServer(self.state_dir, *self.flags, command=["launch.py"])

    async def nodes_of_groups(self) -> dict[str, str]:
        """Return the name of the node that each group is on."""
        options = Options(ray_address=self.address)
        folders = Folders.under(str(self.state_dir))
        cluster = await asyncio.to_thread(check_cluster, options, folders)
        return {place.group: place.node.name for place in cluster.placements if place.node}

    async def examine(self, *flags: str) -> list[Finding]:
        """Return what the doctor finds."""
        command = [sys.executable, "-m", "launcher.wan", "doctor", "--json", *self.flags, *flags]
        command += ["--state-dir", str(self.state_dir)]
        answer = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, capture_output=True, check=False
        )
        return msgspec.json.decode(answer.stdout, type=dict[str, list[Finding]])["findings"]


@asynccontextmanager
async def running(fleet: RayGroups) -> AsyncIterator[RunningServer]:
    """Start a server; leave nothing of it behind."""
    server = fleet.start()
    try:
        await server.wait_until_ready()
        yield server
    finally:
        server.end()


async def health(caller: Caller) -> dict[str, Any]:
    async with caller.session.get("/health") as response:
        told: dict[str, Any] = await response.json()
        return told


async def until_healthy(caller: Caller, ready_groups: int, running: int = 0) -> None:
    """Return when so many groups are ready, and so many jobs run."""
    async with asyncio.timeout(LOAD_LIMIT_S):
        while True:
            told = await health(caller)
            if (told.get("ready_groups"), told.get("running")) == (ready_groups, running):
                return
            await asyncio.sleep(0.05)


async def submit(caller: Caller, seed: int) -> str:
    return await caller.submit(seed=str(seed), infer_steps=str(NUM_STEPS))


async def video(caller: Caller, job_id: str) -> bytes:
    """Return the video of a job that has succeeded."""
    async with caller.session.get(f"/videos/{job_id}.mp4") as response:
        assert response.status == 200
        return await response.read()


async def run_two(caller: Caller, *seeds: int) -> list[str]:
    """Have both groups run a job at the same time; return the jobs."""
    jobs = [await submit(caller, seed) for seed in seeds]
    await until_healthy(caller, ready_groups=2, running=2)
    for job_id in jobs:
        await caller.wait_for(job_id, LOAD_LIMIT_S, status="Succeed", attempt=1)
    return jobs


async def test_the_job_of_a_lost_node_goes_on_elsewhere_and_the_node_is_used_when_it_returns(
    cluster: RayCluster, model: Path, tmp_path: Path
) -> None:
    fleet = RayGroups(cluster, model, tmp_path / "state", groups=2)
    async with running(fleet) as server, calling(server) as caller:
        await until_healthy(caller, ready_groups=2)
        assert len(cluster.pids_of_groups("ranks")) >= 2 * NPROC
        undisturbed, _ = await run_two(caller, 7, 8)

        nodes = await fleet.nodes_of_groups()
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
    """Before, the doctor is asked which groups have a place, and one of them is killed alone."""
    fleet = RayGroups(cluster, model, tmp_path / "state", groups=3)
    async with running(fleet) as server:
        await until(lambda: len(cluster.pids_of_groups()) >= 2 * NPROC, LOAD_LIMIT_S)
        line = await server.wait_until_logged(f" waits for a node with {NPROC} CPU")
        found = [one for one in await fleet.examine() if one.topic in ("ray", "placement")]
        os.kill(cluster.pids_of_groups("launch")[0], signal.SIGKILL)
        await server.wait_until_logged(" was ended by SIGKILL: ")
        await until(lambda: server.log().count(" is on node ") == 3, LOAD_LIMIT_S)
        server.process.kill()
        await server.wait_until_gone(GONE_LIMIT_S)
        await until(lambda: not cluster.pids_of_groups(), GONE_LIMIT_S)
    waiting = line.split(" group ")[1].split()[0]
    told = sorted((one.level, one.message.partition(" on node ")[0]) for one in found)
    others = sorted({"ray0-g0", "ray1-g0", "ray2-g0"} - {waiting})
    assert told == [
        *(("ok", f"group {group} is") for group in others),
        ("warning", f"group {waiting} waits for a node with 4 CPU"),
        ("warning", "room for 2 of 3 groups of 4 CPU; the others will wait"),
    ]


async def test_nodes_that_are_too_small_are_told(
    cluster: RayCluster, model: Path, tmp_path: Path
) -> None:
    found = await RayGroups(cluster, model, tmp_path / "state", groups=1).examine("--nproc", "8")
    (told,) = (one for one in found if one.topic == "ray")
    assert told.level == "error"
    assert told.message == "no node can hold groups of 8 CPU; the largest has 4"


def test_groups_join_a_server_that_listens_everywhere_at_the_address_of_its_node() -> None:
    assert join_address("tcp://127.0.0.1:5570") == "tcp://127.0.0.1:5570"
    for everywhere in ("0.0.0.0", "*"):
        expected = f"tcp://{get_node_ip_address()}:5570"
        assert join_address(f"tcp://{everywhere}:5570") == expected
