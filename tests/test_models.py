"""Several models on one server: one queue, groups of each model, all through real launchers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.server import ChaosServer
from tests.running_server import ROOT, Caller, calling, running_server
from tests.test_joining import joined, open_site

PAIR_LIMIT_S = 240.0


async def refusal(caller: Caller, **fields: str) -> dict[str, Any]:
    """Submit a job that is refused; return the error."""
    body = {"prompt": "A small boat drifts over a calm bay", "image_url": "https://a.example/b.png"}
    async with caller.session.post("/video/submit", json=body | fields) as response:
        answer = await response.json()
        assert response.status == 422, answer
        error: dict[str, Any] = answer["error"]
        return error


async def test_a_killed_group_leaves_the_jobs_of_the_other_model_alone(tmp_path: Path) -> None:
    server = ChaosServer(tmp_path, models=["cat", "dog"], nproc=2, num_steps=100)
    try:
        await server.start()
        async with calling(server.life) as caller:
            cat, dog = [await caller.submit(model=name) for name in ("cat", "dog")]
            for job_id in (cat, dog):
                await caller.wait_for(job_id, stage="denoise")
            server.kill(*server.ledger.pids()["g0"].values())
            await caller.wait_for(dog, status="Succeed", attempt=1)
            await caller.wait_for(cat, status="Succeed", attempt=2)
            error = await refusal(caller, model="cow")
    finally:
        server.end()
    groups = {e.job_id: e.group for e in server.ledger.read() if e.what == "started"}
    assert (groups[cat], groups[dog]) == ("g0", "g1")
    assert (error["code"], error["field"]) == ("unknown_model", "model")
    assert error["message"].endswith("; this server serves cat, dog")


async def test_a_machine_that_joins_brings_its_own_model(tmp_path: Path) -> None:
    async with open_site(tmp_path, num_steps=5) as site, calling(site.server.life) as caller:
        assert (await refusal(caller, model="dog"))["code"] == "unknown_model"
        flags = ("--model", f"dog={tmp_path / 'model'}@1")
        async with joined(site, "group", "far", *flags) as machine:
            near, far = await caller.submit(), await caller.submit(model="dog")
            for job_id in (near, far):
                await caller.wait_for(job_id, status="Succeed", attempt=1)
            assert await machine.stop() == 0
        assert site.groups_of(near) == ["g0"]
        assert site.groups_of(far)[0].endswith("-g0")
        assert site.groups_of(far) != ["g0"]
        waiting = await caller.submit(model="dog")
        status = await caller.status(waiting)
        assert (status["status"], status["reason"]) == (
            "InQueue",
            "waits for a group with model dog",
        )


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    subprocess.run([sys.executable, "-m", "ranks.demo.build", str(folder)], cwd=ROOT, check=True)
    return folder


async def test_two_demo_models_on_two_ranks_each_serve_one_queue(
    demo: Path, tmp_path: Path
) -> None:
    command = ("launch.py", "--device", "cpu", "--port", "0", "--nproc", "2")
    models = ("--model", f"cat={demo}", "--model", f"dog={demo}", "--default-model", "dog")
    async with running_server(tmp_path / "state", *models, command=command) as server:
        async with calling(server) as caller:
            jobs = [await caller.submit(), await caller.submit(model="cat")]
            for job_id in jobs:
                await caller.wait_for(job_id, status="Succeed", limit_s=PAIR_LIMIT_S, attempt=1)
            assert (await refusal(caller, model="cow"))["code"] == "unknown_model"
        log = server.log()
    for job_id, group in zip(jobs, ("g1", "g0"), strict=True):
        assert f"[{job_id}] InProgress, attempt 1 on group {group}" in log
