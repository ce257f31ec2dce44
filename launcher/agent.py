"""The broker's agent: tells it of the groups' lives, and carries out what it asks for them."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import zmq
import zmq.asyncio

from broker.wire.protocol import (
    REGISTER_EVERY_S,
    CancelRun,
    DrainBroker,
    Drained,
    DrainGroup,
    GroupDrained,
    GroupGone,
    GroupStarted,
    KillGroup,
    LauncherHere,
    PeerReport,
    PreemptRun,
    ProtocolError,
    Reregister,
    RunJob,
    StopServer,
    group_commands,
    group_reports,
)
from broker.wire.sockets import Addresses, connect_dealer

logger = logging.getLogger("launcher")

_REACH_LIMIT_S = 10.0

OnKill = Callable[[str, int, str], None]
"""Called with group, epoch and reason."""


class Agent:
    """One peer on the broker's `groups` socket; its connection outlives restarts of the broker."""

    def __init__(self, addresses: Addresses, on_kill: OnKill, on_stop: Callable[[], None]) -> None:
        self.drained = asyncio.Event()
        self._on_kill = on_kill
        self._on_stop = on_stop
        self._lives: dict[str, GroupStarted] = {}
        self._drains: dict[str | None, DrainBroker | DrainGroup] = {}
        self._context = zmq.asyncio.Context()
        self._socket = connect_dealer(
            self._context.socket(zmq.DEALER), addresses.groups, "launcher"
        )

    async def run(self) -> None:
        """Carry out commands, and tell again and again what there is, until the agent is closed."""
        await asyncio.gather(self._listen(), self._repeat())

    async def tell_started(self, group: str, epoch: int, world_size: int) -> None:
        """Tell that a life of a group begins."""
        self._lives[group] = GroupStarted(group=group, epoch=epoch, world_size=world_size)
        await self._send(self._lives[group])

    async def tell_gone(self, group: str, epoch: int, reason: str) -> None:
        """Tell that every process of a life of a group is reaped."""
        self._lives.pop(group, None)
        self._end_drain(group)
        await self._send(GroupGone(group=group, epoch=epoch, reason=reason))

    async def tell_all(self) -> None:
        """Tell a broker that may know nothing which groups live, and what is drained."""
        # Both change meanwhile.
        reports: list[PeerReport] = [*self._drains.values(), *self._lives.values()]
        for report in reports or [LauncherHere()]:
            await self._send(report)

    async def drain(self) -> None:
        """Return when nothing runs any more, on any machine; nothing is started meanwhile."""
        self._drains[None] = DrainBroker()
        await self._send(self._drains[None])
        await self.drained.wait()

    async def drain_groups(self) -> None:
        """Return when nothing runs on the groups of this agent, or the broker cannot tell."""
        for life in self._lives.values():
            self._drains[life.group] = DrainGroup(group=life.group, epoch=life.epoch)
        try:
            while self._drains:
                async with asyncio.timeout(_REACH_LIMIT_S):
                    await self.tell_all()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.drained.wait(), REGISTER_EVERY_S)
        except TimeoutError:
            logger.warning("the broker cannot be reached; not waiting for the running jobs")

    def close(self) -> None:
        """Close the connection."""
        self._context.destroy(linger=0)

    async def _listen(self) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            try:
                command = group_commands.decode(parts)
            except ProtocolError as error:
                logger.warning("dropped a message of the broker: %s", error)
                continue
            match command:
                case KillGroup():
                    self._on_kill(command.group, command.epoch, command.reason)
                case StopServer():
                    self._on_stop()
                case GroupDrained():
                    self._end_drain(command.group)
                case Drained():
                    self._end_drain(None)
                case Reregister():
                    await self.tell_all()
                case RunJob() | CancelRun() | PreemptRun():
                    logger.warning("dropped %s: the launcher runs no jobs", command)

    async def _repeat(self) -> None:
        while True:
            await self.tell_all()
            await asyncio.sleep(REGISTER_EVERY_S)

    def _end_drain(self, group: str | None) -> None:
        """Note that nothing runs any more on a group; None is all of them."""
        if self._drains.pop(group, None) is not None and not self._drains:
            self.drained.set()

    async def _send(self, report: PeerReport) -> None:
        await self._socket.send_multipart(group_reports.encode(report))
