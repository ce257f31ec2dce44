"""Names that a resolver does not answer for; only their owner waits."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from http_front.images import name_lookup
from http_front.images.fetch import ImageSource
from http_front.images.name_lookup import NameLookup
from tests.http_front.scripted_broker import ScriptedBroker
from tests.http_front.serving import PROMPT, serve

FAMILY = socket.AF_INET


class SlowResolver:
    """The system's resolver, which answers for names below `.slow` once it is released."""

    def __init__(self) -> None:
        self.is_released = threading.Event()
        self.num_asked = threading.Semaphore(0)
        self._getaddrinfo = socket.getaddrinfo

    def __call__(self, host: str, *arguments: Any, **options: Any) -> Any:
        if not host.endswith(".slow"):
            return self._getaddrinfo(host, *arguments, **options)
        self.num_asked.release()
        self.is_released.wait()
        raise socket.gaierror(socket.EAI_NONAME, "no such name")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowResolver]:
    resolver = SlowResolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.is_released.set()


async def asked(resolver: SlowResolver) -> None:
    """Wait until the resolver has been asked for a slow name."""
    assert await asyncio.get_running_loop().run_in_executor(None, resolver.num_asked.acquire)


async def test_slow_names_do_not_delay_files(
    resolver: SlowResolver, broker: ScriptedBroker, tmp_path: Path
) -> None:
    """aiohttp opens files in the threads that would look names up by default."""
    async with serve(tmp_path, broker.addresses, ImageSource()) as front:
        submits = [
            asyncio.create_task(
                front.post(
                    "/video/submit", {"prompt": PROMPT, "image_url": f"http://{number}.slow/"}
                )
            )
            for number in range(40)
        ]
        await asked(resolver)
        for _ in range(3):
            async with asyncio.timeout(3), front.session.get(front.url + "/") as response:
                assert response.status == 200
        resolver.is_released.set()
        for status, answer in await asyncio.gather(*submits):
            assert (status, answer["error"]["code"]) == (422, "image_unavailable")


async def test_slow_names_of_one_owner_do_not_delay_another(resolver: SlowResolver) -> None:
    names = NameLookup()
    slow = [
        asyncio.create_task(names.find("ann", f"{number}.slow", 80, FAMILY)) for number in range(40)
    ]
    await asked(resolver)
    async with asyncio.timeout(3):
        assert (await names.find("ben", "127.0.0.1", 80, FAMILY))[0][4] == ("127.0.0.1", 80)
    resolver.is_released.set()
    for failed in await asyncio.gather(*slow, return_exceptions=True):
        assert isinstance(failed, socket.gaierror)


async def test_a_look_up_keeps_its_thread_after_its_time_limit(
    resolver: SlowResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise repeated requests for slow names would start threads without end."""
    monkeypatch.setattr(name_lookup, "LOOKUP_LIMIT_S", 0.1)
    names = NameLookup()
    for _ in range(3):
        found = await asyncio.gather(
            *(names.find("ann", f"{number}.slow", 80, FAMILY) for number in range(10)),
            return_exceptions=True,
        )
        assert {str(error).partition(" about")[0] for error in found} == {"no answer"}
    started = [thread for thread in threading.enumerate() if thread.name == "name-lookup"]
    assert len(started) == 8
    monkeypatch.undo()
    resolver.is_released.set()
    async with asyncio.timeout(5):
        await names.find("ann", "127.0.0.1", 80, FAMILY)
