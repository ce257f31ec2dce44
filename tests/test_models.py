"""Several models on one server: one queue, groups of each model, all through real launchers."""

from pathlib import Path
from typing import Any

from tests.chaos.server import ChaosServer
from tests.running_server import Caller, calling, running_server
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


async def test_two_families_on_two_ranks_each_refuse_what_the_other_takes(tmp_path: Path) -> None:
    families = ("wan2.1-i2v", "wan2.1-flf2v")
    command = ("launch.py", "--device", "cpu", "--port", "0", "--nproc", "2")
    flags = (f"--demo={','.join(families)}", "--default-model", "wan2.1-flf2v")
    async with running_server(
        tmp_path / "state", *flags, command=command, start_limit_s=PAIR_LIMIT_S
    ) as server:
        async with calling(server) as caller:
            to_last = await caller.submit_to_last_image()
            from_first = await caller.submit(model="wan2.1-i2v")
            lacking = await refusal(caller, model="wan2.1-flf2v")
            url = "https://a.example/c.png"
            unused = await refusal(caller, model="wan2.1-i2v", last_image_url=url)
            assert {lacking["field"], unused["field"]} <= {"last_image", "last_image_url"}
            for job_id in (to_last, from_first):
                await caller.wait_for(job_id, status="Succeed", limit_s=PAIR_LIMIT_S, attempt=1)
        log = server.log()
    for job_id, group in ((to_last, "g1"), (from_first, "g0")):
        assert f"[{job_id}] InProgress, attempt 1 on group {group}" in log
