"""The whole server, as an operator starts it and a client uses it, with eight real ranks."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import aiohttp
import imageio_ffmpeg
import pytest
import pytest_asyncio

from tests.listening import listening
from tests.running_server import (
    DEMO,
    ROOT,
    Caller,
    RunningServer,
    calling,
    running_server,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

READY_LIMIT_S = 45.0
JOB_LIMIT_S = 40.0
IDLE_SHARE = 0.02


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "state"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(state_dir: Path) -> AsyncIterator[RunningServer]:
    async with running_server(state_dir) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def caller(server: RunningServer) -> AsyncIterator[Caller]:
    async with calling(server) as caller:
        yield caller


def num_frames(video: bytes, folder: Path, width_px: int, height_px: int) -> float:
    """Decode a video and count its frames, given their size."""
    path = folder / "video.mp4"
    path.write_bytes(video)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, check=True, capture_output=True).stdout
    return len(decoded) / (width_px * height_px * 3)


async def test_an_image_becomes_a_video_and_progress_is_reported(
    caller: Caller, tmp_path: Path
) -> None:
    started = time.monotonic()
    job_id = await caller.submit()
    changes = []
    async with caller.session.ws_connect(f"/video/progress?requestId={job_id}") as feed:
        async for message in feed:
            changes.append(message.json())
    assert time.monotonic() - started < JOB_LIMIT_S
    assert changes[-1]["status"] == "Succeed"
    progress = [change["progress"] for change in changes]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    steps = [change["step"] for change in changes if change["stage"] == "denoise"]
    assert set(steps) >= set(range(1, 21))
    assert [c["seq"] for c in changes] == sorted({c["seq"] for c in changes})
    async with caller.session.get(changes[-1]["results"]["video_url"]) as response:
        video = await response.read()
    assert await asyncio.to_thread(num_frames, video, tmp_path, 128, 128) == 24


async def test_only_the_front_listens_and_only_on_loopback(
    server: RunningServer, state_dir: Path
) -> None:
    addresses = listening(server.pids())
    run_dir = state_dir / "run"
    assert run_dir.stat().st_mode & 0o777 == 0o700
    local = {address for address in addresses if not address.startswith("/")}
    assert addresses - local == {
        str(run_dir / f"{name}.sock") for name in ("requests", "groups", "beats", "events")
    }
    front = server.url.removeprefix("http://")
    assert listening(server.pids("\0http_front\0")) == {front}
    # The others belong to the ranks: a pair of gloo's for each.
    assert {address.rpartition(":")[0] for address in local} == {"127.0.0.1"}


async def test_a_cancelled_job_ends_and_the_group_takes_the_next(caller: Caller) -> None:
    cancelled = await caller.submit(infer_steps="100")
    following = await caller.submit()
    await caller.wait_for(cancelled, stage="denoise")
    assert (await caller.post("/video/cancel", cancelled))["status"] == "Cancelled"
    await caller.wait_for(following, JOB_LIMIT_S, status="Succeed")
    assert (await caller.status(cancelled))["status"] == "Cancelled"
    async with caller.session.get(f"/videos/{cancelled}.mp4") as response:
        assert response.status == 404


async def test_a_job_preempted_by_an_urgent_one_resumes_and_makes_the_same_video(
    caller: Caller,
) -> None:
    settings = {"infer_steps": "60", "seed": "3"}
    undisturbed, job_id = await caller.submit(**settings), await caller.submit(**settings)
    await caller.wait_for(job_id, 2 * JOB_LIMIT_S, stage="denoise")
    urgent = await caller.submit(priority="1")
    await caller.wait_for(urgent, JOB_LIMIT_S, status="Succeed")
    done = await caller.wait_for(job_id, JOB_LIMIT_S, status="Succeed")
    assert done["attempt"] == 2
    first, second = [
        await (await caller.session.get(f"/videos/{name}.mp4")).read()
        for name in (undisturbed, job_id)
    ]
    assert first == second


async def test_a_lost_rank_costs_only_an_attempt(server: RunningServer, caller: Caller) -> None:
    job_id = await caller.submit()
    await caller.wait_for(job_id, stage="denoise")
    async with caller.session.get("/health") as response:
        ranks = (await response.json())["ranks"]
    os.kill(ranks[5]["pid"], signal.SIGKILL)
    done = await caller.wait_for(job_id, status="Succeed")
    assert done["attempt"] == 2


async def test_a_dead_front_and_a_dead_broker_are_started_again_alone(
    server: RunningServer, caller: Caller
) -> None:
    job_id = await caller.submit(infer_steps="60")
    await caller.wait_for(job_id, stage="denoise")
    for module in ("http_front", "broker"):
        (pid,) = server.pids(f"\0{module}\0")
        os.kill(pid, signal.SIGKILL)
        await wait_for_another(server, module, pid)
    done = await wait_until_succeeded(server, job_id)
    assert done["attempt"] == 1


async def wait_for_another(server: RunningServer, module: str, pid: int) -> None:
    await until(lambda: set(server.pids(f"\0{module}\0")) - {pid} != set(), 30)


async def wait_until_succeeded(server: RunningServer, job_id: str) -> dict[str, object]:
    """Poll with new connections, because the earlier ones are lost."""
    async with asyncio.timeout(120), calling(server) as caller:
        while True:
            try:
                status = await caller.status(job_id)
            except (AssertionError, OSError):
                await asyncio.sleep(0.2)
                continue
            assert status["status"] in ("InQueue", "InProgress", "Succeed"), status
            if status["status"] == "Succeed":
                return status
            await asyncio.sleep(0.2)


async def test_idle_processes_use_next_to_nothing(server: RunningServer) -> None:
    before = {pid: server.processor_time_s(pid) for pid in server.pids()}
    await asyncio.sleep(5)  # a period in which nothing must happen
    used = {pid: server.processor_time_s(pid) - before[pid] for pid in before}
    assert len(used) >= 11
    assert max(used.values()) <= 5 * IDLE_SHARE


async def test_sigterm_ends_everything_in_order(server: RunningServer) -> None:
    assert await server.stop() == 0
    await server.wait_until_gone(1.0)
    _, _, stopping = server.log().partition("SIGTERM: stopping")
    assert stopping.rstrip().endswith("launcher stopped")
    assert "ERROR" not in stopping
    assert "Traceback" not in stopping


async def test_jobs_survive_a_stop_and_a_start_within_45_seconds(state_dir: Path) -> None:
    async with running_server(state_dir) as first, calling(first) as caller:
        waiting = [await caller.submit(infer_steps="100", seed="1"), await caller.submit()]
        await caller.wait_for(waiting[0], stage="denoise")
        first.process.send_signal(signal.SIGTERM)
        await first.wait_until_logged("SIGTERM: stopping")
        assert await first.stop() == 0  # the second signal: at once
    second = RunningServer(state_dir)
    try:
        assert await second.wait_until_ready() < READY_LIMIT_S
        for job_id in waiting:
            await wait_until_succeeded(second, job_id)
    finally:
        second.end()


async def test_nothing_outlives_a_killed_launcher(state_dir: Path) -> None:
    async with running_server(state_dir) as server, calling(server) as caller:
        await caller.wait_for(await caller.submit(), stage="denoise")
        assert len(server.pids()) >= 11
        server.process.kill()
        await asyncio.to_thread(server.process.wait)
        await server.wait_until_gone(5.0)


async def test_a_second_server_on_the_same_state_is_refused(state_dir: Path) -> None:
    async with running_server(state_dir) as server:
        second = RunningServer(state_dir)
        assert await asyncio.to_thread(second.process.wait, 30) == 1
        assert f"is in use by another server, pid {server.process.pid}" in second.log()
        assert server.process.poll() is None


async def test_a_closed_terminal_ends_nothing(state_dir: Path) -> None:
    server = start_with_log_on_a_pipe(state_dir)
    try:
        assert server.stderr is not None
        with server.stderr as log:
            url = await asyncio.to_thread(read_until_ready, log)
        async with aiohttp.ClientSession(url) as session:
            caller = Caller(session)
            job_id = await caller.submit()
            await caller.wait_for(job_id, stage="denoise")
            for pid in (server.pid, *children(server.pid)):
                os.kill(pid, signal.SIGHUP)
            await caller.wait_for(job_id, status="Succeed", attempt=1)
        server.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 60) == 0
    finally:
        server.kill()
        server.wait()


def start_with_log_on_a_pipe(state_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, *DEMO, "--state-dir", str(state_dir)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def read_until_ready(log: IO[str]) -> str:
    """Return a server's URL; afterwards, nothing reads its log."""
    line = next(line for line in log if " launcher ready after " in line)
    return line.split()[-1]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
