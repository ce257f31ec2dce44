"""Two machines that share only a bucket: broker and front on one, real ranks on the other."""

from pathlib import Path

import aiohttp

from ranks.job_inputs import NO_STORE as NO_IMAGE
from ranks.media.video_writer import NO_STORE
from tests.chaos.server import ChaosServer
from tests.free_port import free_port
from tests.object_store import SECRET, Site
from tests.running_server import DEMO, SAMPLE, SMALL_JOB, Caller, RunningServer, calling, until

LIMIT_S = 60.0


async def test_a_video_is_made_downloaded_and_deleted_though_the_store_is_down_for_a_while(
    tmp_path: Path, site: Site
) -> None:
    server = ChaosServer(
        tmp_path,
        groups=0,
        flags=["--listen", address := f"tcp://127.0.0.1:{free_port()}", "--store", site.place],
    )
    flags = ["--join", address, "--nproc", "2", "--store", site.place, "--checkpoint-steps", "1"]
    far = None
    try:
        server.spawn()
        await server.life.wait_until_ready()
        far = RunningServer(tmp_path / "far", *flags, command=[DEMO[0], "group", *DEMO[1:]])
        await far.wait_until_ready()
        async with calling(server.life) as caller:
            await cancel_while_the_image_is_missing(caller, site)
            job_id = await make_video(caller, site)
            async with caller.session.get(f"/videos/{job_id}.mp4") as response:
                assert (await response.read())[4:8] == b"ftyp"
            await caller.post("/video/delete", job_id)
        await until(lambda: site.names() == [], LIMIT_S)
        assert await far.stop() == 0
        assert await server.life.stop() == 0
        assert leftovers(tmp_path) == []
        assert SECRET not in server.life.log() + far.log()
        assert "ending it" not in far.log()  # the group has not been restarted
    finally:
        server.end()
        if far is not None:
            far.end()


async def cancel_while_the_image_is_missing(caller: Caller, site: Site) -> None:
    """Cancel a job that has started and waits for its image."""
    first, second = await caller.submit(infer_steps="100"), await caller.submit()
    await caller.wait_for(first, stage="denoise")
    site.proxy.fail("refuses")
    await caller.post("/video/cancel", first)
    await caller.wait_for(second, reason=NO_IMAGE)
    await caller.post("/video/cancel", second)
    site.proxy.recover()
    for job_id in (first, second):
        await caller.post("/video/delete", job_id)


async def make_video(caller: Caller, site: Site) -> str:
    """Make a video while the store is down at the end; return the job's id."""
    job_id = await caller.submit()
    await caller.wait_for(job_id, stage="denoise")
    await until(lambda: f"checkpoints/{job_id}.safetensors" in site.names(), LIMIT_S)
    site.proxy.fail("refuses")
    delayed = await caller.wait_for(job_id, stage="save", reason=NO_STORE)
    assert delayed["status"] == "InProgress"
    form = aiohttp.FormData(SMALL_JOB)
    form.add_field("image", SAMPLE.read_bytes(), filename="sample.jpg")
    async with caller.session.post("/video/submit", data=form) as response:
        assert response.status == 503, await response.text()
    site.proxy.recover()
    done = await caller.wait_for(job_id, status="Succeed", attempt=1)
    assert done["reason"] is None
    await until(lambda: f"checkpoints/{job_id}.safetensors" not in site.names(), LIMIT_S)
    assert [name for name in site.names() if name.startswith("videos/")] == [
        f"videos/{job_id}{ending}" for ending in (".mp4", ".sprites.webp", ".webp")
    ]
    return job_id


def leftovers(folder: Path) -> list[Path]:
    """Return the files of jobs on the machines' disks."""
    endings = {".mp4", ".webp", ".ppm", ".safetensors", ".upload"}
    states = (folder / "state" / "run", folder / "far" / "run")
    paths = [path for state in states for path in state.rglob("*")]
    return [path for path in paths if path.suffix in endings]
