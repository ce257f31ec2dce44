"""The front and the `wan` command against a real broker and a group without torch."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from broker.job import JobState
from broker.protocol import CancelRun, RunJob
from http_front.client import RefusedError, WanClient
from http_front.config import FrontConfig
from tests.broker.driver import BrokerProcess, broker_config, running_broker
from tests.http_front.serving import PROMPT, Served, picture, serve
from tests.stub_group import FAKE_VIDEO, StubConfig, StubGroup

LIMIT_S = 20.0


@dataclass
class Stack:
    broker: BrokerProcess
    group: StubGroup
    front: Served
    client: WanClient
    image: Path

    async def wan(self, *words: str) -> tuple[int, str, str]:
        """Run the `wan` command; return exit code, output and errors."""
        process = await start_wan(*words, "--server", self.front.url)
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def submit(self) -> str:
        return await self.client.submit(self.image, {"prompt": PROMPT})


async def start_wan(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "http_front.cli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest_asyncio.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    image = tmp_path / "cat.png"
    image.write_bytes(picture())
    with tempfile.TemporaryDirectory(prefix="wan-") as state_dir:
        folder = Path(state_dir)
        config = broker_config(folder)
        stub = StubConfig(addresses=config.addresses, videos_dir=str(folder / "videos"))
        async with (
            running_broker(config) as broker,
            StubGroup(stub) as group,
            serve(folder, config.addresses) as front,
            WanClient(front.url) as client,
        ):
            yield Stack(broker, group, front, client, image)


async def last_update(stack: Stack, job_id: str) -> Any:
    async with asyncio.timeout(LIMIT_S):
        updates = [update async for update in stack.client.watch(job_id)]
    seqs = [update.seq for update in updates]
    assert seqs == sorted(set(seqs)), "a change came twice or out of order"
    progress = [update.progress for update in updates]
    assert progress == sorted(progress), "progress went back"
    return updates[-1]


async def test_a_job_goes_from_submit_to_its_video(stack: Stack, tmp_path: Path) -> None:
    job_id = await stack.submit()
    last = await last_update(stack, job_id)
    assert (last.status, last.progress) == (JobState.SUCCEED, 1.0)
    status = await stack.client.status(job_id)
    assert status.results is not None
    assert status.results.video_url == f"/videos/{job_id}.mp4"
    await stack.client.download(job_id, tmp_path / "cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes() == FAKE_VIDEO


async def test_the_examples_of_the_original_document_work(stack: Stack) -> None:
    job_id = await stack.submit()
    await last_update(stack, job_id)
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
    assert (await last_update(stack, second)).status is JobState.SUCCEED
    assert (await last_update(stack, first)).status is JobState.CANCELLED


async def test_a_finished_job_cannot_be_cancelled(stack: Stack) -> None:
    job_id = await stack.submit()
    await last_update(stack, job_id)
    with pytest.raises(RefusedError, match="Succeed") as caught:
        await stack.client.cancel(job_id)
    assert caught.value.status == 409


async def test_a_layout_the_group_cannot_do_is_refused_with_its_numbers(stack: Stack) -> None:
    with pytest.raises(RefusedError, match=r"2 times ulysses_size 3 is 6; .* 8 ranks") as caught:
        await stack.client.submit(stack.image, {"prompt": PROMPT, "ulysses_size": 3, "cfg_size": 2})
    assert caught.value.status == 422


async def test_a_watcher_sees_no_gap_when_the_broker_is_killed(stack: Stack) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    await stack.group.heard(RunJob)
    watching = asyncio.create_task(last_update(stack, job_id))
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


# --- the command line ----------------------------------------------------------------------------


async def test_wan_submit_watches_and_downloads(stack: Stack, tmp_path: Path) -> None:
    place = tmp_path / "out.mp4"
    code, out, err = await stack.wan(
        *("submit", str(stack.image), "--prompt", PROMPT, "--frames", "24", "--steps", "20"),
        *("--no-vae-parallel", "--watch", "--output", str(place)),
    )
    assert code == 0, err
    job_id, shown = out.split()
    assert (len(job_id), shown) == (32, str(place))
    assert place.read_bytes() == FAKE_VIDEO
    assert "denoising" in err
    command = await stack.group.heard(RunJob)
    assert (command.spec.num_frames, command.spec.vae_parallel) == (24, False)


async def test_wan_watch_prints_every_change_as_json(stack: Stack) -> None:
    job_id = await stack.submit()
    code, out, err = await stack.wan("watch", job_id, "--json")
    updates = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert updates[-1]["status"] == "Succeed"
    assert {update["stage"] for update in updates} >= {"encode", "denoise", "decode"}


async def test_wan_status_cancel_and_download(stack: Stack, tmp_path: Path) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    code, out, _ = await stack.wan("status", job_id)
    assert code == 0
    assert "status" in out
    assert (await stack.wan("cancel", job_id))[:2] == (0, "cancelled\n")
    code, out, _ = await stack.wan("status", job_id, "--json")
    assert json.loads(out)["status"] == "Cancelled"
    code, _, err = await stack.wan("download", job_id, "--output", str(tmp_path / "x.mp4"))
    assert (code, err) == (2, "wan: there is no such video\n")
    assert sorted(os.listdir(tmp_path)) == ["cat.png"]


async def test_wan_tells_how_a_job_ended_by_its_exit_code(stack: Stack) -> None:
    stack.group.behaviour = "fail"
    failing = await stack.submit()
    code, _, err = await stack.wan("watch", failing)
    assert code == 1
    assert "the stub was told to fail" in err
    stack.group.hold.clear()
    cancelled = await stack.submit()
    await stack.client.cancel(cancelled)
    assert (await stack.wan("watch", cancelled))[0] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "0" * 32), "wan: no job has this id"),
        (("watch", "0" * 32), "wan: no job has this id"),
        (("submit", "no-such-file.png", "--prompt", PROMPT), "no-such-file.png"),
        (("submit", "x.png", "--prompt", PROMPT, "--frames", "1000"), "num_frames is"),
    ],
)
async def test_wan_says_what_was_wrong(stack: Stack, words: tuple[str, ...], message: str) -> None:
    code, out, err = await stack.wan(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


async def test_wan_without_a_server_ends_with_3() -> None:
    process = await start_wan("status", "0" * 32, "--server", "http://127.0.0.1:9")
    _, err = await process.communicate()
    assert process.returncode == 3
    assert err.startswith(b"wan: no answer from http://127.0.0.1:9")


async def test_ctrl_c_leaves_the_job_running_and_says_so(stack: Stack) -> None:
    stack.group.hold.clear()
    process = await start_wan(
        *("submit", str(stack.image), "--prompt", PROMPT, "--watch", "--json"),
        *("--server", stack.front.url),
    )
    assert process.stdout is not None
    job_id = json.loads(await process.stdout.readline())["requestId"]
    await process.stdout.readline()  # it watches
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_S):
        _, err = await process.communicate()
    assert process.returncode == 130
    assert f"wan cancel {job_id}" in err.decode()
    assert b"Traceback" not in err
    stack.group.hold.set()
    assert (await last_update(stack, job_id)).status is JobState.SUCCEED


# --- the process ---------------------------------------------------------------------------------


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
        assert await asyncio.to_thread(os.read, listen_fd, 64) == b"ready\n"
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


async def start_front(config: FrontConfig, *fds: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "http_front", msgspec.json.encode(config).decode()), pass_fds=fds
    )
