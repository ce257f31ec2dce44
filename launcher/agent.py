"""The launcher's connection to the broker: reports its groups and carries out commands."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import zmq
import zmq.asyncio

from broker.wire.errors import ProtocolError
from broker.wire.group_commands import (
    CancelRun,
    Drained,
    GroupDrained,
    KillGroup,
    PreemptRun,
    Reregister,
    RunJob,
    StopServer,
    group_commands,
)
from broker.wire.group_reports import (
    REGISTER_EVERY_S,
    DrainBroker,
    DrainGroup,
    GroupGone,
    GroupStarted,
    LauncherHere,
    PeerReport,
    group_reports,
)
from broker.wire.sockets import Addresses, connect_dealer

logger = logging.getLogger("launcher")

_SEND_LIMIT_S = 10.0

OnKill = Callable[[str, int, str], None]
"""Called with group, epoch and reason."""


class Agent:
    """One peer on the broker's `groups` socket. Its connection survives restarts of the broker."""

    def __init__(self, addresses: Addresses, on_kill: OnKill, on_stop: Callable[[], None]) -> None:
        self.drained = asyncio.Event()
        self._on_kill = on_kill
        self._on_stop = on_stop
        self._groups: dict[str, GroupStarted] = {}
        self._drains: dict[str | None, DrainBroker | DrainGroup] = {}
        """By group; the key None drains the whole server."""
        self._context = zmq.asyncio.Context()
        self._socket = connect_dealer(
            self._context.socket(zmq.DEALER), addresses.groups, "launcher"
        )

    async def run(self) -> None:
        await asyncio.gather(self._listen(), self._register_forever())

    async def report_started(self, group: str, epoch: int, world_size: int) -> None:
        self._groups[group] = GroupStarted(group=group, epoch=epoch, world_size=world_size)
        await self._send(self._groups[group])

    async def report_gone(self, group: str, epoch: int, reason: str) -> None:
        """Report a group whose processes are all reaped: its job may now run elsewhere."""
        self._groups.pop(group, None)
        self._end_drain(group)
        await self._send(GroupGone(group=group, epoch=epoch, reason=reason))

    async def register(self) -> None:
        """Report every running group and every pending drain to a broker that may know neither."""
        # A copy: groups and drains change while this awaits.
        reports: list[PeerReport] = [*self._drains.values(), *self._groups.values()]
        for report in reports or [LauncherHere()]:
            await self._send(report)

    async def drain(self) -> None:
        """Stop the start of jobs on every machine; return when none runs any more."""
        self._drains[None] = DrainBroker()
        await self._send(self._drains[None])
        await self.drained.wait()

    async def drain_groups(self) -> None:
        """Return when no job runs on this launcher's groups, or the broker cannot be reached."""
        for group in self._groups.values():
            self._drains[group.group] = DrainGroup(group=group.group, epoch=group.epoch)
        try:
            while self._drains:
                async with asyncio.timeout(_SEND_LIMIT_S):
                    await self.register()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.drained.wait(), REGISTER_EVERY_S)
        except TimeoutError:
            logger.warning("the broker cannot be reached; not waiting for running jobs")

    def close(self) -> None:
        self._context.destroy(linger=0)

    async def _listen(self) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            try:
                command = group_commands.decode(parts)
            except ProtocolError as error:
                logger.warning("dropped a message from the broker: %s", error)
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
                    await self.register()
                case RunJob() | CancelRun() | PreemptRun():
                    logger.warning("dropped %s: the launcher runs no jobs", command)

    async def _register_forever(self) -> None:
        while True:
            await self.register()
            await asyncio.sleep(REGISTER_EVERY_S)

    def _end_drain(self, group: str | None) -> None:
        if self._drains.pop(group, None) is not None and not self._drains:
            self.drained.set()

    async def _send(self, report: PeerReport) -> None:
        await self._socket.send_multipart(group_reports.encode(report))
