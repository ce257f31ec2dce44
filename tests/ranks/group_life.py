"""Runs a real group of ranks, seen from the broker's end of the real sockets."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq

from broker.wire.group_commands import GroupCommand, group_commands
from broker.wire.group_reports import GroupReady, PeerReport, group_reports
from broker.wire.job_view import Lease
from broker.wire.rank_messages import RankMessage, rank_messages
from broker.wire.sockets import Addresses, bind_router, bind_sub
from ranks.config import RankConfig

GROUP = "group-0"
LIMIT_S = 120.0
_PR_SET_CHILD_SUBREAPER = 36

Report = TypeVar("Report")


class GroupLife:
    """The broker's and the launcher's view of one start of the ranks.

    Args:
        groups: The broker's socket for rank 0.
        subscriber: The broker's socket for messages that ranks publish.
    """

    def __init__(self, groups: "zmq.Socket[bytes]", subscriber: "zmq.Socket[bytes]") -> None:
        self.pids: dict[int, int] = {}
        self.reports: list[PeerReport] = []
        self.published: list[RankMessage] = []
        self.ready_fd = -1
        """Read end of the pipe from the ranks to the launcher."""
        self._groups, self._subscriber = groups, subscriber
        self._peer = b""

    def send(self, command: GroupCommand) -> None:
        self._groups.send_multipart([self._peer, *group_commands.encode(command)])

    def expect(self, kind: type[Report], lease: Lease | None = None) -> Report:
        """Return the next report of this kind, and of this lease if given; skip others."""
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            report = self._next_report(deadline_s)
            if isinstance(report, kind) and lease in (None, getattr(report, "lease", None)):
                return report

    def expect_published(self, is_expected: Callable[[RankMessage], bool]) -> RankMessage:
        """Return the next heartbeat, step or preview that is expected; skip others."""
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            self._wait(self._subscriber, deadline_s)
            message = rank_messages.decode(self._subscriber.recv_multipart())
            self.published.append(message)
            if is_expected(message):
                return message

    def stop(self) -> list[int]:
        """Stop the group with SIGTERM to rank 0; return the exit codes of all ranks."""
        os.kill(self.pids[0], signal.SIGTERM)
        return self.wait()

    def wait(self) -> list[int]:
        """Wait for all ranks to exit; return their exit codes."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids.values()]
        self.pids.clear()
        return codes

    def _next_report(self, deadline_s: float) -> PeerReport:
        self._wait(self._groups, deadline_s)
        self._peer, *parts = self._groups.recv_multipart()
        report = group_reports.decode(parts)
        self.reports.append(report)
        return report

    def _wait(self, socket: "zmq.Socket[bytes]", deadline_s: float) -> None:
        left_s = max(0.0, deadline_s - time.monotonic())
        if not socket.poll(int(left_s * 1000)):
            raise TimeoutError(
                f"no message within {LIMIT_S:g} s; latest reports: {self.reports[-5:]}"
            )


@contextmanager
def running_group(folder: Path, model: Path, epoch: int, world_size: int) -> Iterator[GroupLife]:
    """Start a group, yield it when it is ready, and kill what is left of it afterwards."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    addresses = Addresses.in_folder(folder)
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as groups,
        context.socket(zmq.SUB) as subscriber,
    ):
        life = GroupLife(
            bind_router(groups, addresses.groups), bind_sub(subscriber, addresses.beats)
        )
        try:
            _start(life, _config(folder, model, epoch, world_size, addresses))
            life.expect(GroupReady)
            yield life
        finally:
            for pid in life.pids.values():
                os.kill(pid, signal.SIGKILL)
            life.wait()
            os.close(life.ready_fd)
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _config(
    folder: Path, model: Path, epoch: int, world_size: int, addresses: Addresses
) -> RankConfig:
    for name in ("inputs", "videos", "checkpoints"):
        (folder / name).mkdir(exist_ok=True)
    return RankConfig(
        group=GROUP,
        epoch=epoch,
        world_size=world_size,
        model_path=str(model),
        device="cpu",
        addresses=addresses,
        store=str(folder),
        rendezvous=str(folder / f"rendezvous-{epoch}"),
        parent_pid=os.getpid(),
    )


def _start(life: GroupLife, config: RankConfig) -> None:
    """Start the process that starts the ranks, and record the pids of the ranks."""
    reader, writer = os.pipe()
    config = msgspec.structs.replace(config, ready_fd=writer)
    starter = subprocess.Popen(
        [sys.executable, "-m", "ranks", msgspec.json.encode(config).decode()], pass_fds=[writer]
    )
    os.close(writer)
    life.ready_fd = reader
    text = b""
    while text.count(b"born ") < config.world_size or not text.endswith(b"\n"):
        ready, _, _ = select.select([reader], [], [], LIMIT_S)
        if not ready or not (part := os.read(reader, 4096)):
            raise RuntimeError(f"the process that starts the ranks failed; it wrote {text!r}")
        text += part
    born = [line.split() for line in text.decode().splitlines() if line.startswith("born ")]
    life.pids.update({int(rank): int(pid) for _, rank, pid in born})
    starter.wait(LIMIT_S)
