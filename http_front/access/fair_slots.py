"""Shares a limited number of slots among owners, so that none waits for another's work."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSlots:
    """A semaphore of which one owner holds at most half, so that others find a slot free.

    Owners that wait take turns, however many requests each of them has waiting.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_free = num_slots
        self._share = max(1, num_slots // 2)
        self._held: Counter[str | None] = Counter()
        self._waiting: OrderedDict[str | None, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, owner: str | None) -> AsyncIterator[None]:
        await self.take(owner)
        try:
            yield
        finally:
            self.give_back(owner)

    async def take(self, owner: str | None) -> None:
        """Wait for a slot; the caller gives it back."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # granted at the same moment
                self.give_back(owner)
            raise

    def give_back(self, owner: str | None) -> None:
        self._num_free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._grant()

    def _grant(self) -> None:
        while self._num_free:
            ready = [owner for owner in self._waiting if self._held[owner] < self._share]
            if not ready:
                return
            self._grant_to(ready[0])

    def _grant_to(self, owner: str | None) -> None:
        turns = self._waiting.pop(owner)
        turn = turns.popleft()
        if turns:
            self._waiting[owner] = turns  # behind the owners that wait already
        if not turn.done():  # else its request was cancelled
            self._num_free -= 1
            self._held[owner] += 1
            turn.set_result(None)
