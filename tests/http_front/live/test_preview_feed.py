import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.wire.events import job_previews, preview_topic
from broker.wire.job import JobState
from broker.wire.job_view import Lease
from broker.wire.rank_messages import JobPreview
from http_front.access.keys import ApiKey, hash_key, make_key, write_keys
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import Served, serve

JPEG = b"\xff\xd8 a picture \xff\xd9"


def watch(front: Served, job_id: str, query: str = "&previews=1", **options: Any) -> Any:
    return front.session.ws_connect(
        f"{front.url}/video/progress?requestId={job_id}{query}", **options
    )


async def heard_subscription(broker: ScriptedBroker, topic: bytes, start: bytes = b"\x01") -> None:
    async with asyncio.timeout(5):
        while await broker.subscribed.get() != start + topic:
            pass


async def send_preview(broker: ScriptedBroker, job_id: str, jpeg: bytes = JPEG) -> None:
    lease = Lease(group="g0", epoch=1, job_id=job_id, attempt=1)
    preview = JobPreview(lease=lease, jpeg=jpeg)
    await broker.send_raw(preview_topic(job_id), *job_previews.encode(preview))


async def test_a_watcher_that_asks_gets_previews_as_binary_messages(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    async with watch(front, job_id) as socket, asyncio.timeout(5):
        await socket.receive_json()
        await heard_subscription(broker, preview_topic(job_id))
        await broker.send_raw(preview_topic(job_id), b"1", b"\xc1")  # unreadable, so ignored
        await send_preview(broker, job_id)
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.BINARY, JPEG)
        await broker.change(job_id, state=JobState.FAILED, reason="enough")
        assert (await socket.receive_json())["seq"] == 2
    await heard_subscription(broker, preview_topic(job_id), b"\x00")


async def test_a_watcher_that_does_not_ask_gets_only_changes(
    front: Served, broker: ScriptedBroker
) -> None:
    job_id = await front.submit()
    async with watch(front, job_id) as asking, watch(front, job_id, "") as plain:
        for socket in (asking, plain):
            await socket.receive_json()
        await heard_subscription(broker, preview_topic(job_id))
        await send_preview(broker, job_id)
        async with asyncio.timeout(5):
            assert (await asking.receive()).data == JPEG
            await broker.change(job_id, step=1)
            assert (await plain.receive_json())["step"] == 1


@pytest.mark.parametrize("value", ["2", "yes", ""])
async def test_another_value_of_previews_is_refused(front: Served, value: str) -> None:
    job_id = await front.submit()
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await watch(front, job_id, f"&previews={value}")
    assert caught.value.status == 422


async def test_a_page_sends_its_key_in_the_subprotocols_of_a_websocket(
    tmp_path: Path, broker: ScriptedBroker
) -> None:
    key, path = make_key(), tmp_path / "keys.json"
    write_keys(path, [ApiKey(name="alice", sha256=hash_key(key))])
    async with serve(tmp_path, broker.addresses, api_keys=str(path)) as front:
        front.session.headers["Authorization"] = f"Bearer {key}"
        job_id = await front.submit()
        del front.session.headers["Authorization"]
        async with watch(front, job_id, protocols=["wan", f"bearer.{key}"]) as socket:
            assert socket.protocol == "wan"
            assert (await socket.receive_json())["requestId"] == job_id
        for protocols in (["wan"], ["wan", "bearer.wrong"]):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await watch(front, job_id, protocols=protocols)
            assert caught.value.status == 401


async def test_a_key_without_our_subprotocol_is_refused_and_not_logged(
    front: Served, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await front.submit()
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await watch(front, job_id, protocols=["bearer.hidden"])
    assert caught.value.status == 400
    assert "hidden" not in caplog.text
