"""Callbacks at the end of a job, sent to a receiver that verifies signatures."""

import asyncio
import json
import resource
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from aiohttp import web

from broker.store.folder import FolderStore
from http_front.images.address_guard import is_public
from http_front.images.guarded_http import GuardedHttp
from http_front.webhooks import callback_sender
from tests.broker.driver import BrokerProcess, broker_config, running_broker
from tests.http_front.images.image_server import IMAGE_ADDRESS, ImageServer
from tests.http_front.serving import Served, picture, serve
from tests.running_server import until
from tests.stub_group import StubConfig, StubGroup

LIMIT_S = 20.0

Call = tuple[dict[str, str], bytes]
"""Headers and body of a callback."""


class Receiver:
    """A client's server: stores the calls it gets, and responds with `status`."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Call] = asyncio.Queue()
        self.status = 204
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        await self.calls.put((dict(request.headers), await request.read()))
        return web.Response(status=self.status)

    async def next(self) -> Call:
        async with asyncio.timeout(LIMIT_S):
            return await self.calls.get()


@dataclass
class Stack:
    broker: BrokerProcess
    group: StubGroup
    front: Served
    receiver: Receiver

    async def submit(self) -> str:
        status, answer = await self.front.upload(picture(), callback_url=self.receiver.url)
        assert status == 202, answer
        return str(answer["requestId"])


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/hook", receiver.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, IMAGE_ADDRESS, 0)
    await site.start()
    receiver.url = f"http://{IMAGE_ADDRESS}:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest_asyncio.fixture
async def stack(receiver: Receiver) -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="wan-") as state_dir:
        config = broker_config(Path(state_dir))
        stub = StubConfig(addresses=config.addresses, videos_dir=f"{state_dir}/videos", num_steps=2)
        async with (
            running_broker(config) as broker,
            StubGroup(stub) as group,
            serving(Path(state_dir), broker) as front,
        ):
            yield Stack(broker, group, front, receiver)


def serving(folder: Path, broker: BrokerProcess) -> AbstractAsyncContextManager[Served]:
    """Run a front that treats one address of this machine as public."""
    http = GuardedHttp(lambda a: a == IMAGE_ADDRESS or is_public(a), None, None)
    return serve(folder, broker.config.addresses, callback_http=http, makes_callbacks=True)


FRESH = b"k" * 32


def test_a_key_that_could_not_be_written_is_made_at_the_next_start(tmp_path: Path) -> None:
    """A half-written key file would leave the server with an empty key, which is no secret."""
    store = FolderStore(tmp_path)
    path, limits = tmp_path / "webhook.key", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.secret(path.name, FRESH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    key = store.secret(path.name, FRESH)
    assert (key, store.secret(path.name, b"another")) == (FRESH, FRESH)
    assert [(file.name, file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == [
        ("webhook.key", 0o600)
    ]


async def test_the_openai_package_verifies_a_callback(stack: Stack) -> None:
    job_id = await stack.submit()
    headers, body = await stack.receiver.next()
    _, answer = await stack.front.get("/video/webhook_secret")
    webhooks = openai.OpenAI(api_key="none", webhook_secret=answer["secret"]).webhooks
    webhooks.verify_signature(body, headers)
    event = json.loads(body)
    assert event["type"] == "video.completed"
    assert event["data"] == {"id": job_id}
    assert event["id"] == headers["webhook-id"]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        webhooks.verify_signature(body.replace(b"completed", b"failed"), headers)


async def test_a_cancelled_job_makes_a_callback_too(stack: Stack) -> None:
    stack.group.hold.clear()
    job_id = await stack.submit()
    await stack.front.post("/video/cancel", {"requestId": job_id})
    assert json.loads((await stack.receiver.next())[1])["type"] == "video.failed"


async def test_the_log_says_where_a_callback_failed_and_when_it_is_sent_again(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    stack.receiver.status = 500
    await stack.submit()
    await stack.receiver.next()
    expected = (
        "callback to " + IMAGE_ADDRESS + " failed, attempt 1: status 500; the next is in 10 s"
    )
    await until(lambda: expected in caplog.text, LIMIT_S)


async def test_a_failed_callback_is_sent_again_even_after_a_broker_restart(stack: Stack) -> None:
    stack.receiver.status = 500
    await stack.submit()
    first, _ = await stack.receiver.next()
    await stack.broker.kill()
    stack.receiver.status = 204
    await stack.broker.start()
    again, _ = await stack.receiver.next()
    assert again["webhook-id"] == first["webhook-id"]


async def test_a_successful_callback_is_sent_once(stack: Stack) -> None:
    jobs = [await stack.submit() for _ in range(3)]
    received = [json.loads((await stack.receiver.next())[1])["data"]["id"] for _ in jobs]
    assert sorted(received) == sorted(jobs)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/", "must be an http or https URL with a host"),
        ("http://user:secret@example.com/", "must not hold a user name or a password"),
        ("http://example.com/a b", "must not hold whitespace"),
        ("http://127.0.0.1/hook", "leads to an address that is not public"),
        ("http://[::ffff:10.0.0.1]/hook", "leads to an address that is not public"),
        ("http://169.254.169.254/latest", "leads to an address that is not public"),
    ],
)
async def test_a_callback_url_that_is_not_allowed_is_refused(
    stack: Stack, url: str, words: str
) -> None:
    status, answer = await stack.front.upload(picture(), callback_url=url)
    assert (status, answer["error"]["field"]) == (422, "callback_url")
    assert words in answer["error"]["message"]


async def test_a_name_of_a_private_address_is_never_called(stack: Stack) -> None:
    inner = Receiver()
    app = web.Application()
    app.router.add_post("/hook", inner.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://localhost:{runner.addresses[0][1]}/hook"
        status, _ = await stack.front.upload(picture(), callback_url=url)
        assert status == 202, "a name is resolved only when it is called"
        await stack.submit()
        await stack.receiver.next()  # the second job's callback, after the first job's was tried
    finally:
        await runner.cleanup()
    assert inner.calls.empty()


async def test_slow_receivers_of_one_host_do_not_delay_the_callbacks_of_another(
    stack: Stack,
) -> None:
    """Without API keys, callbacks count against the host that receives them."""
    silent = ImageServer()
    is_called = asyncio.Event()

    async def say_nothing(writer: asyncio.StreamWriter) -> None:
        is_called.set()
        await writer.wait_closed()

    silent.talk = say_nothing
    async with silent.listen(IMAGE_ADDRESS):
        url = f"http://{IMAGE_ADDRESS}:{silent.port}/hook"
        for _ in range(callback_sender.MAX_CALLS + 4):
            status, answer = await stack.front.upload(picture(), callback_url=url)
            assert status == 202, answer
        await stack.submit()
        await is_called.wait()
        async with asyncio.timeout(callback_sender.CALL_LIMIT_S - 3):
            await stack.receiver.next()
        assert silent.num_calls == callback_sender.MAX_CALLS_OF_PARTY


@pytest.mark.parametrize(
    ("option", "status"), [("allow_private_images", 422), ("allow_private_callbacks", 202)]
)
async def test_only_its_own_option_lets_callbacks_go_to_private_addresses(
    stack: Stack, option: str, status: int
) -> None:
    addresses = stack.broker.config.addresses
    url = stack.receiver.url.replace(IMAGE_ADDRESS, "127.0.0.1")
    settings: dict[str, Any] = {option: True, "makes_callbacks": True}
    async with serve(Path(stack.front.config.store), addresses, **settings) as front:
        found, answer = await front.upload(picture(), callback_url=url)
    assert found == status, answer
