"""The front with a real broker and a group without torch."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import msgspec
import pytest

from broker.wire.group_commands import CancelRun, RunJob
from broker.wire.job import JobState
from http_front.client.client import RefusedError
from http_front.config import FrontConfig
from tests.http_front.full_stack import LIMIT_S, Stack
from tests.http_front.serving import PROMPT
from tests.stub_group import FAKE_VIDEO


async def test_a_job_goes_from_submit_to_its_video(stack: Stack, tmp_path: Path) -> None:
    job_id = await stack.submit()
    last = await stack.end_of(job_id)
    assert (last.status, last.progress) == (JobState.SUCCEED, 1.0)
    status = await stack.client.status(job_id)
    assert status.results is not None
    assert status.results.video_url == f"/videos/{job_id}.mp4"
    await stack.client.download(job_id, tmp_path / "cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes() == FAKE_VIDEO


async def test_the_examples_of_the_original_document_work(stack: Stack) -> None:
    """A status request after the last change of a watch returns that change, never an older one."""
    job_id = await stack.submit()
    await stack.end_of(job_id)
    code, answer = await stack.front.post("/video/status", {"requestId": job_id})
    assert (code, answer["status"]) == (200, "Succeed")
    assert answer["results"]["video_url"] == f"/videos/{job_id}.mp4"
    answer = {"pipeline_world_size": 0}
    async with asyncio.timeout(LIMIT_S):
        while answer["pipeline_world_size"] < 8:
            await stack.group.beat()
            code, answer = await stack.front.get("/health")
    assert (code, answer["status"]) == (200, "healthy")


async def test_a_running_job_is_cancelled_and_the_next_one_runs(stack: Stack) -> None:
    stack.group.hold.clear()
    first, second = await stack.submit(), await stack.submit()
    await stack.group.heard(RunJob)
    await stack.client.cancel(first)
    await stack.group.heard(CancelRun)
    stack.group.hold.set()
    assert (await stack.end_of(second)).status is JobState.SUCCEED
    assert (await stack.end_of(first)).status is JobState.CANCELLED


async def test_a_finished_job_cannot_be_cancelled(stack: Stack) -> None:
    job_id = await stack.submit()
    await stack.end_of(job_id)
    with pytest.raises(RefusedError, match="Succeed") as caught:
        await stack.client.cancel(job_id)
    assert caught.value.status == 409


async def test_a_layout_the_group_cannot_run_is_refused_with_its_numbers(stack: Stack) -> None:
    with pytest.raises(RefusedError, match=r"2 times ulysses_size 3 is 6; .* 8 ranks") as caught:
        await stack.client.submit(stack.image, {"prompt": PROMPT, "ulysses_size": 3, "cfg_size": 2})
    assert caught.value.status == 422


async def test_a_watcher_sees_no_gap_when_the_broker_is_killed(stack: Stack) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    await stack.group.heard(RunJob)
    watching = asyncio.create_task(stack.end_of(job_id))
    await stack.broker.kill()
    await stack.broker.start()
    stack.group.hold.set()
    assert (await watching).status is JobState.SUCCEED


async def test_a_request_waits_while_the_broker_is_restarted(stack: Stack) -> None:
    job_id = await stack.submit()
    await stack.broker.kill()
    asking = asyncio.create_task(stack.client.status(job_id))
    await stack.broker.start()
    assert (await asking).created_at > 0


async def test_without_a_broker_a_request_is_503_with_retry_after(stack: Stack) -> None:
    await stack.broker.kill()
    async with stack.front.session.post(
        stack.front.url + "/video/status", json={"requestId": "0" * 32}
    ) as response:
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert (await response.json())["error"]["code"] == "unavailable"


async def test_the_process_reports_ready_serves_and_ends_on_sigterm(
    stack: Stack, tmp_path: Path
) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    listen_fd, ready_fd = os.pipe()
    config = msgspec.structs.replace(
        stack.front.config, port=0, parent_pid=os.getpid(), ready_fd=ready_fd
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        process = await start_front(msgspec.structs.replace(config, listen_fd=fd), fd, ready_fd)
        os.close(ready_fd)
        assert await asyncio.to_thread(os.read, listen_fd, 6) == b"ready\n"
        os.close(listen_fd)
        url = f"http://127.0.0.1:{port}/video/progress?requestId={job_id}"
        async with stack.front.session.ws_connect(url) as watcher:
            await watcher.receive_json()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(LIMIT_S):
                while not watcher.closed:
                    await watcher.receive()
                assert watcher.close_code == aiohttp.WSCloseCode.GOING_AWAY
                assert await process.wait() == 0


@pytest.mark.skipif(not Path("/proc/net/if_inet6").is_file(), reason="has no IPv6")
async def test_the_process_serves_every_socket_that_it_is_given(stack: Stack) -> None:
    ready, ready_fd = os.pipe()
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as second,
    ):
        fds = (first.fileno(), second.fileno())
        config = msgspec.structs.replace(
            stack.front.config,
            parent_pid=os.getpid(),
            ready_fd=ready_fd,
            listen_fd=fds[0],
            more_listen_fds=fds[1:],
        )
        process = await start_front(config, *fds, ready_fd)
        os.close(ready_fd)
        assert await asyncio.to_thread(os.read, ready, 6) == b"ready\n"
        os.close(ready)
        ports = (first.getsockname()[1], second.getsockname()[1])
        for url in (f"http://127.0.0.1:{ports[0]}/live", f"http://[::1]:{ports[1]}/live"):
            async with stack.front.session.get(url) as response:
                assert response.status == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT_S):
            assert await process.wait() == 0


async def start_front(config: FrontConfig, *fds: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "http_front", msgspec.json.encode(config).decode()), pass_fds=fds
    )
