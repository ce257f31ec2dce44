"""One life of a group, as the launcher sees it: from the nursery to the last rank reaped."""

import asyncio
import logging
import os
import signal
from functools import partial

from msgspec import structs

from launcher.spawn import Child, Reaper, describe_exit, kill_tree
from ranks.config import RankConfig

logger = logging.getLogger("launcher")

_STACK_DUMP_S = 1.0
_REAP_LIMIT_S = 30.0


class GroupLife:
    """Starts the ranks of a group, and ends them all as soon as one of them has ended."""

    def __init__(self, reaper: Reaper, config: RankConfig, module: str) -> None:
        self.config = config
        self.ready = asyncio.Event()
        self._reaper = reaper
        self._nursery = Child(reaper, f"{config.group}/nursery", module)
        self.pids: dict[int, int] = {}  # of each rank
        self._num_ready = 0
        self._failure: str | None = None
        self._leaving = False
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def live(self, startup_limit_s: float) -> str:
        """Run the group until something ends it; return why, with every process reaped.

        Args:
            startup_limit_s: How long the ranks may take until all are ready.

        Raises:
            UnkillableError: If a process does not end.
        """
        leader_pid = await self._nursery.start(lambda fd: structs.replace(self.config, ready_fd=fd))
        self._nursery.exited.add_done_callback(self._on_nursery_exit)
        limit = asyncio.get_running_loop().call_later(
            startup_limit_s, self._on_startup_limit, startup_limit_s
        )
        listener = asyncio.create_task(self._listen())
        try:
            reason = await self._end
        finally:
            limit.cancel()
            await self._end_all(leader_pid)
            await listener  # every writer is gone; it has now heard why
            self._nursery.close()
        return self._failure or reason

    def kill(self, reason: str) -> None:
        """End the group; `live` returns with this reason, after the ranks have dumped stacks."""
        logger.error("group %s: ending it: %s", self.config.group, reason)
        loop = asyncio.get_running_loop()
        # One rank after the other: dumped at once, their stacks would mix line by line.
        for place, rank in enumerate(self.pids):
            loop.call_later(_STACK_DUMP_S * place / len(self.pids), self._dump_stack, rank)
        loop.call_later(_STACK_DUMP_S, self.end, reason)

    async def ask_to_leave(self) -> None:
        """Let the ranks leave together at the next boundary; return when all have ended."""
        self._leaving = True
        for pid in self.pids.values():
            self._signal(pid, signal.SIGTERM)
        if exits := [self._reaper.exited(pid) for pid in self.pids.values()]:
            await asyncio.wait(exits)

    def end(self, reason: str) -> None:
        """End the group at once; `live` returns with this reason unless it had another."""
        if not self._end.done():
            self._end.set_result(reason)

    async def _listen(self) -> None:
        async for line in self._nursery.lines():
            word, _, rest = line.partition(" ")
            rank, _, text = rest.partition(" ")
            if word == "born":
                self.pids[int(rank)] = pid = int(text)
                self._reaper.exited(pid).add_done_callback(partial(self._on_rank_exit, int(rank)))
            elif word == "ready":
                self._num_ready += 1
                if self._num_ready == self.config.world_size:
                    self.ready.set()
            elif word == "failed" and self._failure is None:
                self._failure = f"rank {rank}: {text}"

    def _on_nursery_exit(self, exited: asyncio.Future[int]) -> None:
        if exited.result() != 0:
            self.end(f"the first process {describe_exit(exited.result())}")

    def _on_rank_exit(self, rank: int, exited: asyncio.Future[int]) -> None:
        # A rank that has left as asked ends nothing: rank 0 may still be writing a video.
        if exited.result() != 0 or not self._leaving:
            self.end(f"rank {rank} {describe_exit(exited.result())}")

    def _on_startup_limit(self, limit_s: float) -> None:
        if not self.ready.is_set():
            count = f"{self._num_ready} of {self.config.world_size}"
            self.end(f"after {limit_s:.0f} s only {count} ranks were ready")

    def _dump_stack(self, rank: int) -> None:
        if not self._end.done():  # afterwards the pid may be another process's
            self._signal(self.pids[rank], signal.SIGUSR1)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        if not self._reaper.exited(pid).done():
            os.kill(pid, number)

    async def _end_all(self, leader_pid: int) -> None:
        """Kill and reap every process of this life, also those whose birth was never heard of."""
        await kill_tree(leader_pid, _REAP_LIMIT_S)
        for pid in self.pids.values():
            self._reaper.forget(pid)
