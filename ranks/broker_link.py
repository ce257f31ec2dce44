"""A rank's connection to the broker, in its own thread: heartbeats continue while tensors work."""

import logging
import os
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self, assert_never

import zmq

from broker.process.log import current_stage
from broker.wire.errors import ProtocolError
from broker.wire.group_commands import (
    CancelRun,
    Drained,
    GroupCommand,
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
    GroupReady,
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    group_reports,
)
from broker.wire.group_shape import GroupShape
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import Heartbeat, JobPreview, StepDone, rank_messages
from broker.wire.sockets import connect_dealer, connect_pub
from ranks.config import RankConfig
from ranks.device import Device

logger = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 1.0
_FLUSH_LIMIT_S = 2.0
_NUM_KEPT_REPORTS = 2

RunReport = JobStarted | JobDecoded | JobDelayed | JobFinished | JobFailed | JobStopped
FINAL_REPORTS = (JobFinished, JobFailed, JobStopped)


class Activity:
    """What this rank is doing, written by its main thread and published by its link."""

    def __init__(self) -> None:
        self.stage = Stage.LOAD
        self.step = 0
        self.part = 0.0
        """How much of the next step is done, from 0 to 1."""
        self.num_done = 0
        self.skipped_steps: tuple[int, ...] = ()

    def enter(self, stage: Stage) -> None:
        current_stage.set(stage.value)
        self.stage = stage
        self.step, self.part = 0, 0.0
        if stage is Stage.ENCODE:  # of another attempt
            self.skipped_steps = ()

    def finish_item(self) -> None:
        # Finished work proves that this rank is not hung.
        self.step, self.part = self.step + 1, 0.0
        self.num_done += 1

    def finish_part(self, done: float) -> None:
        self.part = done
        self.num_done += 1


class BrokerLink:
    """Sends the heartbeats of a rank; on rank 0, also reports, and receives the broker's commands.

    Only its thread uses the sockets. Other threads queue messages and wake it.

    Args:
        config: Addresses of the broker, and name and epoch of the group.
        rank: This rank.
        device: Its name and memory use go into the heartbeats.
    """

    def __init__(self, config: RankConfig, rank: int, device: Device) -> None:
        self.activity = Activity()
        self.commands: queue.SimpleQueue[RunJob | None] = queue.SimpleQueue()
        """Jobs to run; None only wakes the reader."""
        self._config = config
        self._rank = rank
        self._device = device
        self._shape: GroupShape | None = None
        self._reports: deque[RunReport] = deque()
        self._steps: deque[StepDone] = deque()
        self._previews: deque[JobPreview] = deque(maxlen=1)
        self._running: list[Lease] = []
        self._cancelled: set[Lease] = set()
        self._preempted: set[Lease] = set()
        self._final_reports: deque[RunReport] = deque(maxlen=_NUM_KEPT_REPORTS)
        self._is_closing = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._thread = threading.Thread(target=self._run, name="broker-link", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closing = True
        self._wake()
        self._thread.join()

    def group_ready(self, shape: GroupShape) -> None:
        """Register the group with the broker, now and every `REGISTER_EVERY_S`."""
        self._shape = shape
        self._wake()

    def report(self, report: RunReport) -> None:
        self._reports.append(report)
        self._wake()

    def finish_step(self, lease: Lease, num_steps: int) -> None:
        self.activity.finish_item()
        self._report_step(lease, num_steps)

    def finish_part(self, lease: Lease, done: float, num_steps: int) -> None:
        self.activity.finish_part(done)
        self._report_step(lease, num_steps)

    def _report_step(self, lease: Lease, num_steps: int) -> None:
        if self._rank == 0:
            activity = self.activity
            self._steps.append(
                StepDone(
                    lease=lease,
                    stage=activity.stage,
                    step=activity.step,
                    part=activity.part,
                    num_steps=num_steps,
                    skipped_steps=activity.skipped_steps,
                )
            )
            self._wake()

    def preview(self, lease: Lease, jpeg: bytes) -> None:
        # A newer preview replaces one that has not been sent yet.
        self._previews.append(JobPreview(lease=lease, jpeg=jpeg))
        self._wake()

    def is_cancelled(self, lease: Lease) -> bool:
        return lease in self._cancelled

    def is_preempted(self, lease: Lease) -> bool:
        return lease in self._preempted

    def _wake(self) -> None:
        # If the pipe is full, the thread will wake up anyway.
        with suppress(BlockingIOError):
            os.write(self._wake_writer, b"\0")

    def _run(self) -> None:
        try:
            with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
                connect_pub(publisher, self._config.addresses.beats)
                with context.socket(zmq.DEALER) as dealer:
                    if self._rank == 0:
                        connect_dealer(dealer, self._config.addresses.groups, "rank-0")
                    self._loop(publisher, dealer)
        except Exception:
            # A rank without heartbeats counts as hung, so exit at once and log the cause.
            logger.exception("the link to the broker failed; this rank exits")
            logging.shutdown()
            os._exit(1)

    def _loop(self, publisher: "zmq.Socket[bytes]", dealer: "zmq.Socket[bytes]") -> None:
        poller = zmq.Poller()
        poller.register(self._wake_reader, zmq.POLLIN)
        next_heartbeat_s = next_register_s = time.monotonic()
        while not self._is_closing:
            now_s = time.monotonic()
            if now_s >= next_heartbeat_s:
                _send(publisher, rank_messages.encode(self._heartbeat()))
                next_heartbeat_s = now_s + HEARTBEAT_EVERY_S
            if now_s >= next_register_s and self._register(dealer):
                next_register_s = now_s + REGISTER_EVERY_S
            self._send_waiting(publisher, dealer)
            if self._rank == 0:
                # Poll for writing only while a report waits; else the poll would return at once.
                poller.register(dealer, zmq.POLLIN | (zmq.POLLOUT if self._reports else 0))
            poller.poll(max(0, int((next_heartbeat_s - time.monotonic()) * 1000) + 1))
            self._drain_wake_pipe()
            self._receive(dealer)
        self._flush(publisher, dealer)

    def _flush(self, publisher: "zmq.Socket[bytes]", dealer: "zmq.Socket[bytes]") -> None:
        # Within a time limit, because the broker may be gone.
        deadline_s = time.monotonic() + _FLUSH_LIMIT_S
        self._send_waiting(publisher, dealer)
        while self._reports and time.monotonic() < deadline_s:
            dealer.poll(100, zmq.POLLOUT)
            self._send_waiting(publisher, dealer)
        for socket in (dealer, publisher):
            socket.setsockopt(zmq.LINGER, int(_FLUSH_LIMIT_S * 1000))

    def _drain_wake_pipe(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            group=self._config.group,
            epoch=self._config.epoch,
            rank=self._rank,
            pid=os.getpid(),
            device=self._device.name,
            stage=self.activity.stage,
            step=self.activity.step,
            num_done=self.activity.num_done,
            memory_bytes=self._device.memory_bytes(),
        )

    def _register(self, dealer: "zmq.Socket[bytes]") -> bool:
        # Waiting reports go first.
        if self._shape is None or self._reports:
            return False
        ready = GroupReady(
            group=self._config.group,
            epoch=self._config.epoch,
            shape=self._shape,
            device=self._device.kind,
            patience=self._device.patience,
            running=list(self._running),
        )
        return _send(dealer, group_reports.encode(ready))

    def _send_waiting(self, publisher: "zmq.Socket[bytes]", dealer: "zmq.Socket[bytes]") -> None:
        while self._steps:
            _send(publisher, rank_messages.encode(self._steps.popleft()))
        while self._previews:
            _send(publisher, rank_messages.encode(self._previews.popleft()))
        while self._reports and _send(dealer, group_reports.encode(self._reports[0])):
            self._record_sent(self._reports.popleft())

    def _record_sent(self, report: RunReport) -> None:
        if isinstance(report, FINAL_REPORTS):
            self._final_reports.append(report)
            self._cancelled.discard(report.lease)
            self._preempted.discard(report.lease)
            self._running = [lease for lease in self._running if lease != report.lease]

    def _receive(self, dealer: "zmq.Socket[bytes]") -> None:
        while self._rank == 0:
            try:
                parts = dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._handle(group_commands.decode(parts), dealer)
            except ProtocolError as error:
                logger.warning("dropped a command that cannot be decoded: %s", error)

    def _handle(self, command: GroupCommand, dealer: "zmq.Socket[bytes]") -> None:
        match command:
            case RunJob(lease=lease):
                self._queue_run(command, lease)
            case CancelRun(lease=lease) if lease in self._running:
                self._cancelled.add(lease)
            case CancelRun(lease=lease):
                # Ended, or never started here: no rank works on it.
                self.report(JobStopped(lease=lease))
            case PreemptRun(lease=lease):
                if lease in self._running:
                    self._preempted.add(lease)
            case Reregister():
                for report in self._final_reports:
                    _send(dealer, group_reports.encode(report))
                self._register(dealer)
            case KillGroup() | StopServer() | GroupDrained() | Drained():
                logger.warning("dropped a command meant for the launcher: %s", command)
            case _:
                assert_never(command)

    def _queue_run(self, command: RunJob, lease: Lease) -> None:
        if (lease.group, lease.epoch) != (self._config.group, self._config.epoch):
            logger.warning(
                "dropped a run for another group or epoch: %s; this is group %s, epoch %d",
                lease,
                self._config.group,
                self._config.epoch,
            )
        elif lease not in self._running:
            self._running.append(lease)
            self.commands.put(command)


def _send(socket: "zmq.Socket[bytes]", parts: list[bytes]) -> bool:
    try:
        socket.send_multipart(parts, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
