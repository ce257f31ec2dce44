"""Owners share slots: one may not hold all of them, and those that wait take turns."""

import asyncio

import pytest

from http_front.access.fair_slots import FairSlots


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class Requests:
    """Requests that hold their slot until they are ended."""

    def __init__(self, slots: FairSlots) -> None:
        self.started: list[str] = []
        self._slots = slots
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def add(self, *names: str) -> None:
        """Begin requests; the first letter of a name is its owner."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(name))
        await settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await settle()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name] for name in names])

    async def _hold(self, name: str) -> None:
        async with self._slots.slot(name[0]):
            self.started.append(name)
            await self._ends[name].wait()


@pytest.fixture
def requests() -> Requests:
    return Requests(FairSlots(4))


async def test_one_owner_leaves_half_of_the_slots_to_others(requests: Requests) -> None:
    await requests.add("a1", "a2", "a3", "b1", "c1")
    assert requests.started == ["a1", "a2", "b1", "c1"]


async def test_waiting_owners_take_turns(requests: Requests) -> None:
    await requests.add("a1", "a2", "b1", "b2", "c1", "c2", "c3", "d1")
    await requests.end("a1")
    await requests.end("a2")
    await requests.end("b1")
    await requests.end("b2")
    assert requests.started[4:] == ["c1", "d1", "c2"], "c may hold two"


async def test_a_request_that_stops_waiting_gets_no_slot(requests: Requests) -> None:
    await requests.add("a1", "a2", "a3", "a4")
    await requests.cancel("a3")
    await requests.end("a1")
    assert requests.started == ["a1", "a2", "a4"]


async def test_a_request_that_is_cancelled_at_its_turn_gives_its_slot_back() -> None:
    slots = FairSlots(1)
    await slots.take("a")
    waiting = asyncio.create_task(slots.take("b"))
    await settle()
    slots.give_back("a")
    waiting.cancel()
    await asyncio.wait([waiting])
    async with asyncio.timeout(1):
        await slots.take("c")
