"""Looks host names up in threads of its own, a limited number for each owner."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from http_front.access.fair_slots import FairSlots

LOOKUP_LIMIT_S = 10.0
_NUM_THREADS = 16

AddressInfo = tuple[socket.AddressFamily, int, int, str, tuple[Any, ...]]


class NameLookup:
    """Looks names up with the system's resolver.

    A look-up cannot be interrupted. Its thread keeps its slot until the system gives up, so slow
    names of one owner delay neither other owners nor anything else that uses threads.
    """

    def __init__(self) -> None:
        self._slots = FairSlots(_NUM_THREADS)

    async def find(
        self, owner: str | None, host: str, port: int, family: socket.AddressFamily
    ) -> Sequence[AddressInfo]:
        """Return what `getaddrinfo` finds.

        Raises:
            OSError: If there is no such name, or no answer in time.
        """
        try:
            async with asyncio.timeout(LOOKUP_LIMIT_S):
                await self._slots.take(owner)
                return await self._start(owner, host, port, family)
        except TimeoutError as error:
            raise OSError(f"no answer about {host} within {LOOKUP_LIMIT_S:g} s") from error

    def _start(
        self, owner: str | None, host: str, port: int, family: socket.AddressFamily
    ) -> asyncio.Future[Sequence[AddressInfo]]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[AddressInfo]] = loop.create_future()

        def settle(infos: Sequence[AddressInfo], error: Exception | None) -> None:
            self._slots.give_back(owner)
            if found.done():
                return  # the time limit has passed
            if error is None:
                found.set_result(infos)
            else:
                found.set_exception(error)

        def look_up() -> None:
            infos: Sequence[AddressInfo] = ()
            failure: Exception | None = None
            try:
                infos = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                failure = error
            with suppress(RuntimeError):  # the front has stopped meanwhile
                loop.call_soon_threadsafe(settle, infos, failure)

        # A daemon thread does not delay the end of the process, unlike those of an executor.
        Thread(target=look_up, name="name-lookup", daemon=True).start()
        return found


class OwnersResolver(AbstractResolver):
    """Resolves names for requests of one owner."""

    def __init__(self, names: NameLookup, owner: str | None) -> None:
        self._names = names
        self._owner = owner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(endpoint[0]),
                port=int(endpoint[1]),
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, endpoint in await self._names.find(
                self._owner, host, port, family
            )
        ]

    async def close(self) -> None:
        """Do nothing: all requests share the look-up."""
