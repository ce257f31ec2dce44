"""A distilled model on a whole server: four steps, one branch, progress within a step."""

import asyncio
from pathlib import Path
from typing import Any

from tests.running_server import JOB_LIMIT_S, SAMPLE, Caller, calling, running_server

START_LIMIT_S = 240.0
PROMPT = "A small boat drifts over a calm bay"


async def submit(caller: Caller, **fields: str) -> tuple[int, Any]:
    form = {"prompt": PROMPT, "image_size": "128*128", "num_frames": "24", "seed": "7", **fields}
    files = {"image": SAMPLE.open("rb")}
    async with caller.session.post("/video/submit", data=form | files) as response:
        return response.status, await response.json()


async def changes(caller: Caller, job_id: str) -> list[dict[str, Any]]:
    """Return what the progress WebSocket tells of a job, up to its end."""
    path = f"/video/progress?requestId={job_id}"
    async with asyncio.timeout(JOB_LIMIT_S), caller.session.ws_connect(path) as feed:
        return [message.json() async for message in feed]


async def test_a_distilled_model_makes_a_video_in_four_steps_without_guidance(
    tmp_path: Path,
) -> None:
    flags = ("--nproc", "2", "--distilled", "demo")
    async with (
        running_server(tmp_path / "state", *flags, start_limit_s=START_LIMIT_S) as server,
        calling(server) as caller,
    ):
        async with caller.session.get("/v1/models") as response:
            (model,) = (await response.json())["data"]
        assert (model["is_distilled"], model["infer_steps"], model["max_steps"]) == (True, 4, 8)
        for field, value in (("guidance_scale", "3"), ("use_attentioncache", "true")):
            status, answer = await submit(caller, **{field: value})
            assert (status, answer["error"]["field"]) == (422, field)
            assert "demo is distilled" in answer["error"]["message"]
        _, answer = await submit(caller)
        seen = await changes(caller, answer["requestId"])
    assert seen[-1]["status"] == "Succeed"
    denoising = [change for change in seen if change["stage"] == "denoise"]
    assert {change["num_steps"] for change in denoising} == {4}
    # Of the first step, before it ends.
    assert (denoising[0]["step"], denoising[0]["progress"] > 0.05) == (0, True)
    progress = [change["progress"] for change in seen]
    assert progress == sorted(progress)
