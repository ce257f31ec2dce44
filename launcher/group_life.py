"""One epoch of a group: starts its ranks, watches them, and ends them together.

A starter process (`python -m ranks`) loads what all ranks share, forks the ranks and exits. The
launcher is a subreaper, so it becomes their parent.
"""

import asyncio
import logging
import os
import signal
from functools import partial

from msgspec import structs

from broker.process.child import UNFIT_EXIT_CODE
from launcher.spawn import Child, Reaper, kill_tree
from ranks.config import RankConfig

logger = logging.getLogger("launcher")

_STACK_DUMP_S = 1.0
_REAP_LIMIT_S = 30.0


class GroupLife:
    """Starts the ranks of a group, and ends all of them as soon as one exits."""

    def __init__(self, reaper: Reaper, config: RankConfig, module: str) -> None:
        self.config = config
        self.ready = asyncio.Event()
        self.pids: dict[int, int] = {}
        """By rank."""
        self.is_unfit = False
        """Whether a rank has found that the model cannot be served: a restart does not help."""
        self._reaper = reaper
        self._starter = Child(reaper, f"{config.group}/starter", module)
        self._loading = set(range(config.world_size))
        """The ranks that are not ready yet."""
        self._load_failure: str | None = None
        self._is_leaving = False
        self._kill_reason: str | None = None
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, startup_limit_s: float) -> str:
        """Run the group until something ends it; return the reason once every process is reaped.

        Args:
            startup_limit_s: Time until all ranks must be ready.

        Raises:
            UnkillableError: If a process survives SIGKILL.
        """
        leader_pid = await self._starter.start(lambda fd: structs.replace(self.config, ready_fd=fd))
        self._starter.exited.add_done_callback(self._on_starter_exit)
        limit = asyncio.get_running_loop().call_later(
            startup_limit_s, self._on_startup_limit, startup_limit_s
        )
        listener = asyncio.create_task(self._listen())
        try:
            reason = await self._end
        finally:
            limit.cancel()
            await self._end_all(leader_pid)
            await listener  # it ends with the last rank, after it has read any load failure
            self._starter.close()
        return self._load_failure or reason

    def kill(self, reason: str) -> None:
        """End the group with this reason, after each rank has dumped its stacks."""
        logger.error("group %s: ending it: %s", self.config.group, reason)
        # A process that has only just started ends by the signal that asks for its stacks.
        self._kill_reason = self._kill_reason or reason
        if self._starter.pid is not None:
            self._signal(self._starter.pid, signal.SIGUSR1)
        loop = asyncio.get_running_loop()
        # One rank at a time, or the lines of their stacks would interleave.
        for index, rank in enumerate(self.pids):
            loop.call_later(_STACK_DUMP_S * index / len(self.pids), self._dump_stack, rank)
        loop.call_later(_STACK_DUMP_S, self.end, reason)

    async def ask_to_leave(self) -> None:
        """Have the ranks exit together at the next step boundary; return when all have exited."""
        self._is_leaving = True
        for pid in self.pids.values():
            self._signal(pid, signal.SIGTERM)
        if exits := [self._reaper.exited(pid) for pid in self.pids.values()]:
            await asyncio.wait(exits)

    def end(self, reason: str) -> None:
        # The first reason given is the one that `run` returns.
        if not self._end.done():
            self._end.set_result(self._kill_reason or reason)

    async def _listen(self) -> None:
        async for line in self._starter.lines():
            event, _, rest = line.partition(" ")
            rank, _, text = rest.partition(" ")
            if event == "born":
                self.pids[int(rank)] = pid = int(text)
                self._reaper.exited(pid).add_done_callback(partial(self._on_rank_exit, int(rank)))
            elif event == "ready":
                self._loading.discard(int(rank))
                if not self._loading:
                    self.ready.set()
            elif event == "failed" and self._load_failure is None:
                self._load_failure = f"rank {rank}: {text}"

    def _on_starter_exit(self, exited: asyncio.Future[int]) -> None:
        if exited.result() != 0:
            self.end(f"the starter process {self._reaper.describe_exit(exited.result())}")

    def _on_rank_exit(self, rank: int, exited: asyncio.Future[int]) -> None:
        self.is_unfit |= exited.result() == UNFIT_EXIT_CODE
        # A rank that leaves as asked ends nothing: rank 0 may still be writing a video.
        if exited.result() != 0 or not self._is_leaving:
            self.end(f"rank {rank} {self._reaper.describe_exit(exited.result())}")

    def _on_startup_limit(self, limit_s: float) -> None:
        if not self.ready.is_set():
            world_size = self.config.world_size
            count = f"{world_size - len(self._loading)} of {world_size}"
            missing = ", ".join(map(str, sorted(self._loading)))
            self.kill(f"after {limit_s:.0f} s only {count} ranks were ready; missing: {missing}")

    def _dump_stack(self, rank: int) -> None:
        if not self._end.done():  # afterwards the pid may belong to another process
            self._signal(self.pids[rank], signal.SIGUSR1)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        if not self._reaper.exited(pid).done():
            os.kill(pid, number)

    async def _end_all(self, leader_pid: int) -> None:
        await kill_tree(leader_pid, _REAP_LIMIT_S)
        for pid in self.pids.values():
            self._reaper.forget(pid)
