"""A front with API keys, a real broker and a group without torch."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from broker.wire.group_commands import RunJob
from http_front.access.key_guard import UNAUTHORIZED_PER_MINUTE
from http_front.access.keys import ApiKey, Limits, hash_key, make_key, write_keys
from http_front.docs.openapi import make_document
from http_front.images.fetch import ImageSource
from tests.broker.driver import broker_config, running_broker
from tests.http_front.images.image_server import Names
from tests.http_front.serving import Served, picture, serve
from tests.stub_group import StubConfig, StubGroup

LIMIT_S = 20.0
WIDE = Limits(submits_per_minute=600, requests_per_second=600, queue_share=100, websockets=100)
OPEN = {"/live", "/health", "/docs", "/openapi.json"}


@dataclass
class Keyed:
    """A front, its key file, and three keys: two for users and one for an administrator."""

    front: Served
    group: StubGroup
    file: Path
    ann: str
    bob: str
    root: str

    def write(self, *keys: ApiKey) -> None:
        write_keys(self.file, [*self.users(), *keys])

    def users(self) -> list[ApiKey]:
        return [
            ApiKey(name="ann", sha256=hash_key(self.ann), limits=WIDE),
            ApiKey(name="bob", sha256=hash_key(self.bob), limits=WIDE),
            ApiKey(name="root", sha256=hash_key(self.root), limits=WIDE, admin=True),
        ]

    async def call(
        self, method: str, path: str, key: str | None, **sent: Any
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        url = self.front.url + path
        async with self.front.session.request(method, url, headers=headers, **sent) as response:
            return response.status, dict(response.headers), await response.read()

    async def submit(self, key: str) -> str:
        status, job_id = await self.try_submit(key)
        assert status == 202
        return job_id

    async def try_submit(self, key: str) -> tuple[int, str]:
        status, answer = await self.ask_for(key)
        return status, answer.get("requestId", "")

    async def ask_for(self, key: str, **fields: str) -> tuple[int, Any]:
        form = aiohttp.FormData({"prompt": "A cat walks slowly over a wooden bridge"} | fields)
        form.add_field("image", picture(), filename="cat.png")
        async with self.front.session.post(
            self.front.url + "/video/submit",
            data=form,
            headers={"Authorization": f"Bearer {key}"},
        ) as response:
            return response.status, await response.json()


@pytest_asyncio.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[Keyed]:
    file = tmp_path / "keys.json"
    async with AsyncExitStack() as stack:
        # Not in tmp_path, whose path is too long for a socket.
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wan-")))
        config = broker_config(state)
        await stack.enter_async_context(running_broker(config))
        group = await stack.enter_async_context(
            StubGroup(
                StubConfig(addresses=config.addresses, videos_dir=str(state / "videos"), step_s=0.0)
            )
        )
        write_keys(file, [])
        names = Names()
        names.answers["intranet.example"] = [("10.0.0.1", 80)]
        front = await stack.enter_async_context(
            serve(state, config.addresses, ImageSource(resolver=names), api_keys=str(file))
        )
        found = Keyed(front, group, file, make_key(), make_key(), make_key())
        found.write()
        yield found


@contextlib.asynccontextmanager
async def calling_from(keyed: Keyed, address: str) -> AsyncIterator[Keyed]:
    """Call from another address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield replace(keyed, front=replace(keyed.front, session=session))


def paths(job_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return every documented operation, with the body to send."""
    found = []
    for path, operations in make_document()["paths"].items():
        for method in operations:
            body = {"json": {"requestId": job_id}} if method == "post" else {}
            query = f"?requestId={job_id}" if path == "/video/progress" else ""
            found.append((method, path.replace("{requestId}", job_id) + query, body))
    return found


async def test_a_client_learns_no_address_of_the_servers_network(keyed: Keyed) -> None:
    """A client that can tell a private name from an unknown one can list the names of a network."""
    job = {"prompt": "A cat walks slowly over a wooden bridge"}
    codes = []
    for key, host in ((keyed.ann, "intranet"), (keyed.ann, "unknown"), (keyed.root, "intranet")):
        body = job | {"image_url": f"http://{host}.example/cat.png"}
        _, _, answer = await keyed.call("POST", "/video/submit", key, json=body)
        codes.append(json.loads(answer)["error"]["code"])
    assert codes == ["image_unavailable", "image_unavailable", "image_url_forbidden"]


async def test_without_a_key_no_route_reveals_anything(keyed: Keyed) -> None:
    job_id = await keyed.submit(keyed.ann)
    for number, (method, path, body) in enumerate(paths(job_id)):
        async with calling_from(keyed, f"127.0.0.{10 + number}") as stranger:
            status, headers, answer = await stranger.call(method, path, None, **body)
            if path not in OPEN:
                assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), path
            assert job_id.encode() not in answer
            for wrong in ("", "wrong", keyed.ann + "x", keyed.ann[:-1]):
                status, _, answer = await stranger.call(method, path, wrong, **body)
                assert (status, b"unauthorized" in answer) == (401, True), (path, wrong)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "an API key is required; send Authorization: Bearer KEY"),
        ({"Authorization": "Bearer wan_x"}, "this API key is not valid: it is misspelt, or was"),
        ({"Authorization": "Basic eDp5"}, "the Authorization header is malformed; send"),
    ],
)
async def test_a_missing_and_a_wrong_key_are_told_apart(
    keyed: Keyed, headers: dict[str, str], message: str
) -> None:
    async with keyed.front.session.get(
        f"{keyed.front.url}/video/list", headers=headers
    ) as response:
        assert response.status == 401
        assert (await response.json())["error"]["message"].startswith(message)


async def test_only_administrators_may_raise_the_priority(keyed: Keyed) -> None:
    for key, priority in ((keyed.ann, "0"), (keyed.ann, "-10"), (keyed.root, "10")):
        status, answer = await keyed.ask_for(key, priority=priority)
        assert (status, "requestId" in answer) == (202, True), answer
        body = {"requestId": answer["requestId"]}
        _, _, status_body = await keyed.call("POST", "/video/status", key, json=body)
        assert json.loads(status_body)["priority"] == int(priority)
    status, answer = await keyed.ask_for(keyed.ann, priority="1")
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (
        *(403, "forbidden"),
        "priority",
    )
    assert "priority is 1; more than 0 needs an administrator's key" in str(answer)


async def test_health_without_a_key_shows_only_the_status(keyed: Keyed) -> None:
    body = b""
    async with asyncio.timeout(LIMIT_S):
        while b'"pid":' not in body:
            await keyed.group.beat()
            _, _, body = await keyed.call("GET", "/health", keyed.ann)
    _, _, body = await keyed.call("GET", "/health", None)
    assert b'"ranks":[]' in body
    assert b'"pipeline_world_size":0' in body


async def test_a_client_that_guesses_keys_is_slowed_down_and_locks_no_other_out(
    keyed: Keyed,
) -> None:
    for key in (make_key(), None):
        answers = await asyncio.gather(
            *(keyed.call("GET", "/video/list", key) for _ in range(2 * UNAUTHORIZED_PER_MINUTE))
        )
        refused = [answer for answer in answers if answer[0] == 429]
        assert {status for status, _, _ in answers} <= {401, 429}
        assert len(refused) > UNAUTHORIZED_PER_MINUTE / 2
        assert all(1 <= int(headers["Retry-After"]) <= 2 for _, headers, _ in refused)
        assert all(b"rate_limited" in body for _, _, body in refused)
    assert (await keyed.call("GET", "/live", None))[0] == 200
    assert (await keyed.call("GET", "/video/list", keyed.ann))[0] == 200
    async with calling_from(keyed, "127.0.0.9") as neighbour:
        assert (await neighbour.call("GET", "/video/list", make_key()))[0] == 401


async def test_another_owners_job_and_an_unknown_job_get_identical_responses(keyed: Keyed) -> None:
    job_id = await keyed.submit(keyed.ann)
    await until_succeeded(keyed, job_id)
    # This is json-082-other of the bad inputs.
    for method, path, _ in paths("ID"):
        if "ID" not in path and path not in TAKE_AN_ID:
            continue
        answers = []
        for name in (job_id, "0" * 32):
            body = {"json": {"requestId": name}} if method == "post" else {}
            upgrade = {"headers": UPGRADE} if "progress" in path else {}
            answers.append(
                await call_as(keyed, keyed.bob, method, path.replace("ID", name), body | upgrade)
            )
        assert answers[0] == answers[1], path
        assert answers[0][0] == 404
    status, _, video = await keyed.call("GET", f"/videos/{job_id}.mp4", keyed.ann)
    assert (status, video[4:8]) == (200, b"ftyp")


TAKE_AN_ID = ("/video/status", "/video/cancel", "/video/keep", "/video/delete")
"""In their body."""
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


async def call_as(
    keyed: Keyed, key: str, method: str, path: str, sent: dict[str, Any]
) -> tuple[int, dict[str, str], bytes]:
    headers = {**sent.pop("headers", {}), "Authorization": f"Bearer {key}"}
    url = keyed.front.url + path
    async with keyed.front.session.request(method, url, headers=headers, **sent) as response:
        shown = {name: value for name, value in response.headers.items() if name != "Date"}
        return response.status, shown, await response.read()


async def until_succeeded(keyed: Keyed, job_id: str) -> None:
    async with (
        asyncio.timeout(LIMIT_S),
        keyed.front.session.ws_connect(
            f"{keyed.front.url}/video/progress?requestId={job_id}",
            headers={"Authorization": f"Bearer {keyed.ann}"},
        ) as feed,
    ):
        assert [message.json() async for message in feed][-1]["status"] == "Succeed"


async def test_adding_and_removing_a_key_takes_effect_at_once(keyed: Keyed) -> None:
    job = {"json": {"requestId": "0" * 32}}
    assert (await keyed.call("POST", "/video/status", keyed.bob, **job))[0] == 404
    write_keys(keyed.file, [key for key in keyed.users() if key.name != "bob"])
    assert (await keyed.call("POST", "/video/status", keyed.bob, **job))[0] == 401
    new = make_key()
    keyed.write(ApiKey(name="new", sha256=hash_key(new)))
    assert (await keyed.call("POST", "/video/status", new, **job))[0] == 404


async def test_a_broken_key_file_keeps_the_previous_keys(
    keyed: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await keyed.call("POST", "/admin/cleanup", keyed.root))[0] == 200
    keyed.file.write_text("{")
    assert (await keyed.call("POST", "/admin/cleanup", keyed.root))[0] == 200
    keyed.file.unlink()
    assert (await keyed.call("POST", "/admin/cleanup", keyed.root))[0] == 200
    assert "keeping the previous API keys" in caplog.text


async def test_only_an_administrators_key_opens_admin_routes(keyed: Keyed) -> None:
    status, _, answer = await keyed.call("POST", "/admin/cleanup", keyed.ann)
    assert (status, b"forbidden" in answer) == (403, True)
    assert (await keyed.call("POST", "/admin/cleanup", keyed.root))[0] == 200


async def test_a_key_is_held_to_its_rates(keyed: Keyed) -> None:
    slow = make_key()
    limits = Limits(submits_per_minute=2, requests_per_second=3)
    keyed.write(ApiKey(name="slow", sha256=hash_key(slow), limits=limits))
    sent = [await keyed.call("POST", "/video/submit", slow, json={}) for _ in range(3)]
    assert [status for status, _, _ in sent] == [422, 422, 429]
    assert 25 <= int(sent[2][1]["Retry-After"]) <= 30
    assert b"rate_limited" in sent[2][2]
    asked = await asyncio.gather(
        *(keyed.call("POST", "/video/status", slow, json={"requestId": "x"}) for _ in range(20))
    )
    statuses = [status for status, _, _ in asked]
    assert statuses.count(404) < 10 < statuses.count(429)
    assert (await keyed.call("POST", "/video/status", keyed.ann, json={"requestId": "x"}))[0] == 404


async def test_a_key_is_held_to_its_share_of_the_queue(keyed: Keyed) -> None:
    keyed.group.hold.clear()
    small = make_key()
    limits = Limits(queue_share=1)
    keyed.write(ApiKey(name="small", sha256=hash_key(small), limits=limits))
    await keyed.submit(small)
    await keyed.group.heard(RunJob)
    await keyed.submit(small)
    assert (await keyed.try_submit(small))[0] == 429
    await keyed.submit(keyed.ann)


async def test_a_key_is_held_to_its_number_of_websockets(keyed: Keyed) -> None:
    keyed.group.hold.clear()
    small = make_key()
    keyed.write(ApiKey(name="small", sha256=hash_key(small), limits=Limits(websockets=2)))
    job_id = await keyed.submit(small)
    url = f"{keyed.front.url}/video/progress?requestId={job_id}"
    headers = {"Authorization": f"Bearer {small}"}
    session = keyed.front.session
    first, second = [await session.ws_connect(url, headers=headers) for _ in range(2)]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await session.ws_connect(url, headers=headers)
    assert refused.value.status == 429
    await first.close()
    async with asyncio.timeout(LIMIT_S):
        while True:  # the server sees the close a moment later
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                third = await session.ws_connect(url, headers=headers)
                break
    await asyncio.gather(second.close(), third.close())


async def test_removing_a_key_closes_its_websockets_and_no_others(keyed: Keyed) -> None:
    keyed.group.hold.clear()
    url = keyed.front.url + "/video/progress?requestId="
    feeds = []
    for key in (keyed.ann, keyed.bob):
        headers = {"Authorization": f"Bearer {key}"}
        job_id = await keyed.submit(key)
        feeds.append(await keyed.front.session.ws_connect(url + job_id, headers=headers))
    write_keys(keyed.file, [key for key in keyed.users() if key.name != "bob"])
    async with asyncio.timeout(LIMIT_S):
        assert {message.json()["status"] async for message in feeds[1]} <= {"InQueue", "InProgress"}
        assert feeds[1].close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
        keyed.group.hold.set()
        assert [message.json() async for message in feeds[0]][-1]["status"] == "Succeed"
        assert feeds[0].close_code == aiohttp.WSCloseCode.OK
