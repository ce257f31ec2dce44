"""The broker's agent: tells it of the groups' lives, and carries out what it asks for them."""

import asyncio
import logging
from collections.abc import Callable

import zmq
import zmq.asyncio

from broker.protocol import (
    CancelRun,
    DrainBroker,
    Drained,
    GroupGone,
    GroupReport,
    GroupStarted,
    KillGroup,
    ProtocolError,
    Reregister,
    RunJob,
    StopServer,
    group_commands,
    group_reports,
)
from broker.sockets import Addresses, connect_dealer

logger = logging.getLogger("launcher")

OnKill = Callable[[str, int, str], None]
"""Called with group, epoch and reason."""


class Agent:
    """One peer on the broker's `groups` socket; its connection outlives restarts of the broker."""

    def __init__(self, addresses: Addresses, on_kill: OnKill, on_stop: Callable[[], None]) -> None:
        self.drained = asyncio.Event()
        self._on_kill = on_kill
        self._on_stop = on_stop
        self._lives: dict[str, int] = {}
        self._is_draining = False
        self._context = zmq.asyncio.Context()
        self._socket = connect_dealer(
            self._context.socket(zmq.DEALER), addresses.groups, "launcher"
        )

    async def listen(self) -> None:
        """Carry out commands until the agent is closed."""
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
                case Drained():
                    self.drained.set()
                case Reregister():
                    await self.tell_all_started()
                case RunJob() | CancelRun():
                    logger.warning("dropped %s: the launcher runs no jobs", command)

    async def tell_started(self, group: str, epoch: int) -> None:
        """Tell that a life of a group begins."""
        self._lives[group] = epoch
        await self._send(GroupStarted(group=group, epoch=epoch))

    async def tell_gone(self, group: str, epoch: int, reason: str) -> None:
        """Tell that every process of a life of a group is reaped."""
        self._lives.pop(group, None)
        await self._send(GroupGone(group=group, epoch=epoch, reason=reason))

    async def tell_all_started(self) -> None:
        """Tell a broker that knows nothing which groups live."""
        for group, epoch in list(self._lives.items()):  # lives begin and end meanwhile
            await self._send(GroupStarted(group=group, epoch=epoch))

    async def greet(self) -> None:
        """Tell a broker that was just started what the last one knew."""
        if self._is_draining:
            await self._send(DrainBroker())
        await self.tell_all_started()

    async def drain(self) -> None:
        """Return when nothing runs any more."""
        self._is_draining = True
        await self._send(DrainBroker())
        await self.drained.wait()

    def close(self) -> None:
        """Close the connection."""
        self._context.destroy(linger=0)

    async def _send(self, report: GroupReport) -> None:
        await self._socket.send_multipart(group_reports.encode(report))
