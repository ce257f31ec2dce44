"""Two machines that share no disk: broker and front here, real ranks there, a bucket between."""

from pathlib import Path

import aiohttp

from ranks.job_inputs import NO_STORE as NO_IMAGE
from ranks.media.video_writer import NO_STORE
from tests.chaos.server import ChaosServer
from tests.free_port import free_port
from tests.object_store import SECRET, Site
from tests.running_server import DEMO, SAMPLE, SMALL_JOB, Caller, RunningServer, calling, until

LIMIT_S = 60.0


async def test_a_video_is_made_and_fetched_and_removed_though_the_store_goes_away(
    tmp_path: Path, site: Site
) -> None:
    """Seen to fail with errors of an upload ignored: the job succeeds while the store is away."""
    server = ChaosServer(
        tmp_path,
        groups=0,
        flags=["--listen", place := f"tcp://127.0.0.1:{free_port()}", "--store", site.place],
    )
    flags = ["--join", place, "--nproc", "2", "--store", site.place, "--checkpoint-steps", "1"]
    far = None
    try:
        server.spawn()
        await server.life.wait_until_ready()
        far = RunningServer(tmp_path / "far", *flags, command=[DEMO[0], "group", *DEMO[1:]])
        await far.wait_until_ready()
        async with calling(server.life) as caller:
            await wait_in_vain(caller, site)
            job_id = await make(caller, site)
            async with caller.session.get(f"/videos/{job_id}.mp4") as response:
                assert (await response.read())[4:8] == b"ftyp"
            await caller.post("/video/delete", job_id)
        await until(lambda: site.names() == [], LIMIT_S)
        assert await far.stop() == 0
        assert await server.life.stop() == 0
        assert leftovers(tmp_path) == []
        assert SECRET not in server.life.log() + far.log()
        assert "ending it" not in far.log()  # the same life of the group has done it all
    finally:
        server.end()
        if far is not None:
            far.end()


async def wait_in_vain(caller: Caller, site: Site) -> None:
    """Cancel a job that has been given to the group, and waits there for its image."""
    first, second = await caller.submit(infer_steps="100"), await caller.submit()
    await caller.wait_for(first, stage="denoise")
    site.proxy.fail("refuses")
    await caller.post("/video/cancel", first)
    await caller.wait_for(second, reason=NO_IMAGE)
    await caller.post("/video/cancel", second)
    site.proxy.recover()
    for job_id in (first, second):
        await caller.post("/video/delete", job_id)


async def make(caller: Caller, site: Site) -> str:
    """Have a video made while the store is away for the end of the run; return the job's id."""
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
    """Return the files of jobs that lie on a disk."""
    endings = {".mp4", ".webp", ".ppm", ".safetensors", ".upload"}
    states = (folder / "state" / "run", folder / "far" / "run")
    found = [path for state in states for path in state.rglob("*")]
    return [path for path in found if path.suffix in endings]
