import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.replies import JobHistory, Refused
from broker.wire.requests import WatchJob
from http_front.video.job_status import MAX_SEQ
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve

Socket = aiohttp.ClientWebSocketResponse


def watch(front: Served, job_id: str, last_seq: int = 0, **options: Any) -> Any:
    url = f"{front.url}/video/progress?requestId={job_id}&last_seq={last_seq}"
    return front.session.ws_connect(url, **options)


async def receive(socket: Socket) -> Any:
    async with asyncio.timeout(5):
        return await socket.receive_json()


async def close_code(socket: Socket) -> int | None:
    async with asyncio.timeout(8):
        message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE
    return socket.close_code


async def test_a_watcher_gets_a_snapshot_then_every_change_then_a_normal_close(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    async with watch(front, job_id) as socket:
        snapshot = await receive(socket)
        assert (snapshot["seq"], snapshot["status"], snapshot["requestId"]) == (
            1,
            "InQueue",
            job_id,
        )
        for step in range(1, 11):
            await broker.change(job_id, state=JobState.IN_PROGRESS, step=step)
        await broker.change(job_id, state=JobState.SUCCEED, video=f"{job_id}.mp4")
        updates = [await receive(socket) for _ in range(11)]
        assert [update["seq"] for update in updates] == list(range(2, 13))
        assert updates[-1]["results"]["video_url"] == f"/videos/{job_id}.mp4"
        assert await close_code(socket) == 1000


async def test_last_seq_resumes_without_a_gap(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    for step in range(1, 6):
        await broker.change(job_id, state=JobState.IN_PROGRESS, step=step)
    async with watch(front, job_id, last_seq=3) as socket:
        assert [(await receive(socket))["seq"] for _ in range(3)] == [4, 5, 6]


async def test_a_lost_event_is_requested_from_the_broker(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    async with watch(front, job_id) as socket:
        await receive(socket)
        await broker.change(job_id, step=1, publish=False)
        await broker.change(job_id, step=2)
        assert [(await receive(socket))["seq"] for _ in range(2)] == [2, 3]


async def test_a_repeated_event_is_sent_once(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    async with watch(front, job_id) as socket:
        await receive(socket)
        view = await broker.change(job_id, step=1)
        await broker.publish(view)
        await broker.send_raw(job_id.encode(), b"1", b"\xc1")
        await broker.change(job_id, step=2)
        assert [(await receive(socket))["seq"] for _ in range(2)] == [2, 3]


async def test_an_unknown_last_seq_gets_the_job_as_it_is_now(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    async with watch(front, job_id, last_seq=999) as socket:
        assert (await receive(socket))["seq"] == 1
        await broker.change(job_id, step=1)
        assert (await receive(socket))["seq"] == 2


@pytest.mark.parametrize("last_seq", [str(MAX_SEQ + 1), "9" * 4000, "-1", "1e3", "٣"])
async def test_an_invalid_last_seq_is_refused(front: Served, last_seq: str) -> None:
    query = {"requestId": await front.submit(), "last_seq": last_seq}
    status, answer = await front.get(f"/video/progress?{urlencode(query)}")
    assert status == 422
    assert answer["error"]["message"] == f"last_seq must be a whole number from 0 to {MAX_SEQ}"


async def test_the_largest_last_seq_is_accepted(front: Served) -> None:
    async with watch(front, await front.submit(), last_seq=MAX_SEQ) as socket:
        assert (await receive(socket))["seq"] == 1


async def test_an_ended_job_is_sent_once_and_the_socket_closes(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    await broker.change(job_id, state=JobState.FAILED, reason="no memory")
    async with watch(front, job_id, last_seq=2) as socket:
        assert (await receive(socket))["reason"] == "no memory"
        assert await close_code(socket) == 1000


@pytest.mark.parametrize("query", ["0" * 32, "../x", ""])
async def test_an_unknown_job_is_404_before_the_upgrade(front: Served, query: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await watch(front, query)
    assert caught.value.status == 404


async def test_a_plain_get_is_refused_because_a_websocket_is_required(front: Served) -> None:
    status, answer = await front.get(f"/video/progress?requestId={'0' * 32}")
    assert status == 400
    assert "WebSocket" in answer["error"]["message"]


async def test_an_error_during_a_watch_is_sent_before_the_close(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    broker.script = lambda request: (
        Refused(code=ErrorCode.UNAVAILABLE, message="the broker is draining")
        if isinstance(request, WatchJob)
        else None
    )
    async with watch(front, job_id) as socket:
        assert (await receive(socket))["error"]["code"] == "unavailable"
        assert await close_code(socket) == 1013


@pytest.mark.parametrize(("is_silent", "last_status"), [(False, "Succeed"), (True, "InQueue")])
async def test_a_stopping_front_sends_the_last_change_if_the_broker_replies_in_time(
    broker: ScriptedBroker, tmp_path: Path, is_silent: bool, last_status: str
) -> None:
    """The watcher gets the last change even if its event was lost."""

    async def watch_to_the_end(socket: Socket) -> None:
        async for message in socket:
            received.append(message.json()["status"])

    received: list[str] = []
    async with aiohttp.ClientSession() as session, asyncio.timeout(8):
        async with serve(tmp_path, broker.addresses) as front:
            job_id = await front.submit()
            socket = await session.ws_connect(f"{front.url}/video/progress?requestId={job_id}")
            received.append((await receive(socket))["status"])
            watching = asyncio.create_task(watch_to_the_end(socket))
            await broker.change(job_id, state=JobState.SUCCEED, publish=False)
            broker.silent = is_silent
        await watching
    assert received[-1] == last_status


async def test_a_client_that_leaves_is_unsubscribed(front: Served, broker: ScriptedBroker) -> None:
    job_id = await front.submit()
    async with watch(front, job_id) as socket:
        await receive(socket)
    topics = []
    async with asyncio.timeout(5):
        while b"\x00" + job_id.encode() not in topics:
            topics.append(await broker.subscribed.get())
    assert b"\x01" + job_id.encode() in topics


async def test_a_watcher_gets_the_part_of_the_history_that_the_broker_keeps(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    for step in range(1, 6):
        await broker.change(job_id, step=step)
    broker.script = lambda request: (
        JobHistory(jobs=broker.history[job_id][-2:]) if isinstance(request, WatchJob) else None
    )
    async with watch(front, job_id) as socket:
        assert [(await receive(socket))["seq"] for _ in range(2)] == [5, 6]
