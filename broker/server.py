"""The broker's sockets: what comes in goes to the worker, what it decides goes out."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import assert_never

import msgspec
import zmq
import zmq.asyncio

from broker import child
from broker.commands import (
    Command,
    DropJob,
    GroupsNamed,
    Publish,
    Reply,
    StopLaunchers,
    TellDrained,
    ToGroup,
    ToLauncher,
    WatchersChanged,
)
from broker.config import BrokerConfig
from broker.curve import Gatekeeper
from broker.dispatch import Dispatcher
from broker.drops import Drops
from broker.errors import JournalFullError
from broker.history import History
from broker.job import JobState
from broker.journal import Journal
from broker.keeper import Keeper
from broker.peers import Peers
from broker.protocol import (
    BackUp,
    Beat,
    CancelJob,
    DeleteJob,
    DrainBroker,
    Drained,
    DrainServer,
    EndCallback,
    ErrorCode,
    FindProbe,
    FrontReply,
    GetHealth,
    GetJob,
    GroupCommand,
    JobFound,
    JobHistory,
    JobPreview,
    JobView,
    LauncherHere,
    ListJobs,
    OfferJob,
    ProbeSought,
    ProtocolError,
    Refused,
    RemoveExpired,
    Reregister,
    StepDone,
    StopServer,
    SubmitJob,
    TakeCallback,
    WatchJob,
    front_replies,
    front_requests,
    group_commands,
    group_reports,
    job_events,
    job_previews,
    preview_topic,
    rank_beats,
)
from broker.sockets import bind_router, bind_sub, bind_xpub, split_keys
from broker.stores import open_store
from broker.worker import STORAGE_FULL, Client, Worker

logger = logging.getLogger(__name__)

TICK_S = 1.0
GATHER_S = 0.005
_MAX_TAKEN = 200
_MAX_LISTED = 1000
_UNKNOWN_JOB = Refused(
    code=ErrorCode.JOB_NOT_FOUND, message="no job has this id; it may have expired"
)

Handle = Callable[[list[bytes]], Awaitable[None]]
"""Takes the parts of a message."""


class SteadyClock:
    """Seconds since 1970 that never jump: the time of the start, counted on by a steady clock."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Return the time now."""
        return self._offset_s + time.monotonic()


class Broker:
    """One broker on its four sockets; to be made inside a running event loop.

    Args:
        config: Addresses and limits.
        journal: The open journal in the locked state directory.
    """

    def __init__(self, config: BrokerConfig, journal: Journal) -> None:
        self._config = config
        self._clock = SteadyClock()
        jobs = journal.load()
        now_s = self._clock()
        with suppress(JournalFullError):
            journal.forget_history(now_s)
        self._dispatcher = Dispatcher(
            config.shape,
            config.max_queue,
            config.job_ttl_s,
            jobs,
            now_s,
            config.step_limit_s,
            config.retry_pauses_s,
            config.lost_s,
            config.priority_step_s,
        )
        self._history = History(self._dispatcher.views(now_s))
        self._peers = Peers()
        self._keeper = Keeper(open_store(config.store or config.state_dir), self._dispatcher)
        self._keeper.begin()
        self._worker = Worker(self._dispatcher, journal, self._keeper, self._carry_out, self._clock)
        self._context = zmq.asyncio.Context()
        self._gatekeeper = Gatekeeper(self._context)
        self._requests = self._context.socket(zmq.ROUTER)
        self._groups = self._context.socket(zmq.ROUTER)
        self._beats = self._context.socket(zmq.SUB)
        self._events = self._context.socket(zmq.XPUB)

    async def run(self) -> None:
        """Serve until `stop` is called.

        Raises:
            JournalError: If the journal cannot be trusted any more.
        """
        try:
            self._bind()
            child.report(self._config.ready_fd, "ready")
            logger.info("ready")
            await self._serve()
        finally:
            self._keeper.close()
            self._gatekeeper.close()
            # What was sent last gets a moment to leave.
            self._context.destroy(linger=1000)

    async def stop(self) -> None:
        """Have `run` return once all that has arrived is done."""
        await self._worker.stop()

    def _bind(self) -> None:
        ends = [end for end in (self._config.addresses, self._config.listen) if end is not None]
        bind_router(self._requests, *self._guarded(self._requests, [e.requests for e in ends]))
        bind_router(self._groups, *self._guarded(self._groups, [e.groups for e in ends]))
        bind_sub(self._beats, *self._guarded(self._beats, [e.beats for e in ends]))
        bind_xpub(self._events, *self._guarded(self._events, [e.events for e in ends]))

    def _guarded(self, socket: zmq.asyncio.Socket, addresses: list[str]) -> list[str]:
        """Have the gatekeeper stand at those of a socket's addresses that need keys."""
        for place, folder in map(split_keys, addresses):
            if folder is not None:
                self._gatekeeper.open(folder)
                self._gatekeeper.watch(socket, place)
        return addresses

    async def _serve(self) -> None:
        if self._config.groups is not None:
            await self._worker.put(GroupsNamed(self._config.groups))
        if self._config.draining:
            await self._worker.put(DrainBroker())
        # No receive is ever cancelled while its message matters: that would lose messages.
        tasks = [
            asyncio.create_task(self._worker.run()),
            asyncio.create_task(self._keeper.run()),
            asyncio.create_task(self._tick()),
            asyncio.create_task(_read(self._requests, self._on_request)),
            asyncio.create_task(_read(self._groups, self._on_report, GATHER_S)),
            asyncio.create_task(_hear(zmq.Socket(self._beats), self._on_beat)),
            asyncio.create_task(_read(self._events, self._on_subscription)),
        ]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if not self._worker.is_full:
                await self._worker.put(None)

    # --- what comes in ---------------------------------------------------------------------------

    async def _on_request(self, parts: list[bytes]) -> None:
        if len(parts) < 2:
            raise ProtocolError(f"expected a correlation id, found {len(parts)} parts")
        client = Client(parts[0], parts[1])
        request = front_requests.decode(parts[2:])
        match request:
            case OfferJob() | SubmitJob() if self._worker.is_full:
                await self._answer(client, STORAGE_FULL)
            case (
                OfferJob()
                | SubmitJob()
                | CancelJob()
                | DeleteJob()
                | RemoveExpired()
                | DrainServer()
            ):
                await self._worker.put(request, client)
            case GetJob():
                await self._answer(client, self._job_found(request))
            case WatchJob():
                jobs = self._history.after(request.job_id, request.after_seq, request.owner)
                await self._answer(client, JobHistory(jobs=jobs) if jobs else _UNKNOWN_JOB)
            case ListJobs():
                limit = min(max(request.limit, 0), _MAX_LISTED)
                page = self._history.page(request, limit)
                jobs = [job for view in page.jobs if (job := self._detailed(view)) is not None]
                await self._answer(client, msgspec.structs.replace(page, jobs=jobs))
            case TakeCallback() | EndCallback() | BackUp():
                await self._answer(client, await self._ask_journal(request))
            case FindProbe():
                found = await self._keeper.has_probe(request.name)
                await self._answer(client, ProbeSought(found=found))
            case GetHealth():
                await self._answer(client, self._dispatcher.health())
            case _:
                assert_never(request)

    async def _ask_journal(self, request: TakeCallback | EndCallback | BackUp) -> FrontReply:
        match request:
            case TakeCallback():
                return await self._worker.take_callback(self._clock())
            case EndCallback():
                return await self._worker.end_callback(request.job_id)
            case BackUp():
                return await self._worker.back_up(Path(request.path))

    def _job_found(self, request: GetJob) -> FrontReply:
        view = self._history.latest(request.job_id, request.owner)
        found = None if view is None else self._detailed(view)
        return _UNKNOWN_JOB if found is None else JobFound(job=found)

    def _detailed(self, view: JobView) -> JobView | None:
        """Return a view with what only those are told who ask; None while its job is removed."""
        job = self._dispatcher.job(view.job_id)
        if job is None:
            return None
        eta_s = expires_at = position = None
        if view.state.is_terminal:
            expires_at = view.updated_at + self._config.job_ttl_s
        else:
            eta_s = self._dispatcher.eta_s(view.job_id, self._clock())
        if view.state is JobState.IN_QUEUE:
            # It may have left the queue, and only the journal does not know yet.
            position = self._dispatcher.queue_position(view.job_id) or view.queue_position
        return msgspec.structs.replace(
            view, queue_position=position, eta_s=eta_s, expires_at=expires_at, spec=job.spec
        )

    async def _on_report(self, parts: list[bytes]) -> None:
        identity, report = parts[0], group_reports.decode(parts[1:])
        is_new = not self._peers.knows(identity)
        if not self._peers.admit(identity, report):
            logger.warning("dropped %s of a peer that may not say it", type(report).__name__)
            return
        if is_new:
            # Also of a peer that registers by this: the last broker may have died with its report.
            await self._command(identity, Reregister())
        if not isinstance(report, LauncherHere):
            await self._worker.put(report)

    async def _on_beat(self, parts: list[bytes]) -> None:
        news = rank_beats.decode(parts)
        match news:
            case Beat():
                self._dispatcher.hear(news, self._clock())
            case StepDone() if self._worker.is_full:
                pass  # nothing can be decided now, and steps are soon stale
            case StepDone():
                await self._worker.put(news)
            case JobPreview():
                await self._relay(news)
            case _:
                assert_never(news)

    async def _on_subscription(self, parts: list[bytes]) -> None:
        # Whoever subscribes is told at once how the job is: a change between a front's question
        # and its subscription is never missed.
        is_start, job_id = parts[0][:1] == b"\x01", parts[0][1:].decode(errors="replace")
        view = self._history.latest(job_id)
        if view is None:
            return
        if is_start:
            await self._publish(view)
        await self._worker.put(WatchersChanged(job_id, is_start))

    # --- what goes out ---------------------------------------------------------------------------

    async def _carry_out(self, command: Command, client: Client | None) -> None:
        match command:
            case Reply():
                assert client is not None, "a reply to nobody"
                await self._answer(client, command.message)
            case Publish():
                self._history.add(command.view)
                await self._publish(command.view)
            case DropJob():
                self._history.drop(command.job_id)
            case ToGroup():
                await self._command(self._peers.holder(command.message.lease), command.message)
            case ToLauncher():
                await self._command(self._peers.launcher(command.group), command.message)
            case StopLaunchers():
                for identity in self._peers.launchers():
                    await self._command(identity, StopServer())
            case TellDrained():
                for identity in self._peers.drainers():
                    await self._command(identity, Drained())
            case _:
                raise AssertionError(f"not to be sent: {command}")

    async def _publish(self, view: JobView) -> None:
        await self._events.send_multipart([view.job_id.encode(), *job_events.encode(view)])

    async def _relay(self, preview: JobPreview) -> None:
        if self._dispatcher.is_running(preview.lease):
            topic = preview_topic(preview.lease.job_id)
            await self._events.send_multipart([topic, *job_previews.encode(preview)])

    async def _answer(self, client: Client, reply: FrontReply) -> None:
        await _send(self._requests, [*client, *front_replies.encode(reply)], reply)

    async def _command(self, identity: bytes | None, command: GroupCommand) -> None:
        if identity is None:
            logger.warning("nobody is there for %s", type(command).__name__)
            return
        await _send(self._groups, [identity, *group_commands.encode(command)], command)


async def _read(socket: zmq.asyncio.Socket, handle: Handle, pause_s: float = 0.0) -> None:
    """Hand over each message of a socket; one that cannot be decoded ends nothing.

    Args:
        socket: Read by nobody else.
        handle: Takes the messages in their order.
        pause_s: How long to let messages gather once they come thick: to be woken by one costs
            several times what it costs to handle it.
    """
    drops, at_once = Drops(), zmq.Socket(socket)
    while True:
        arrived = [await socket.recv_multipart(), *_take(at_once)]
        for parts in arrived:
            await _hand_over(parts, handle, drops)
        if len(arrived) > 1:
            # Who has more to hear than it takes at a time goes on as soon as others had their turn.
            await asyncio.sleep(pause_s if len(arrived) <= _MAX_TAKEN else 0.0)


async def _hear(socket: "zmq.Socket[bytes]", handle: Handle) -> None:
    """Hand over each message of a socket that thousands of peers speak on, and only they.

    While messages gather, nothing wakes the process.
    """
    drops = Drops()
    while True:
        while arrived := _take(socket):
            for parts in arrived:
                await _hand_over(parts, handle, drops)
            await asyncio.sleep(GATHER_S if len(arrived) < _MAX_TAKEN else 0.0)
        # Only now: as long as anything is left, ZeroMQ may give no further sign. That nothing is
        # ever sent on the socket matters, too: a send can swallow the sign.
        await _readable(socket.FD)


async def _hand_over(parts: list[bytes], handle: Handle, drops: Drops) -> None:
    try:
        await handle(parts)
    except ProtocolError as error:
        drops.tell(error)


def _take(socket: "zmq.Socket[bytes]") -> list[list[bytes]]:
    """Return what has arrived already, up to a number."""
    arrived: list[list[bytes]] = []
    with suppress(zmq.Again):
        while len(arrived) < _MAX_TAKEN:
            arrived.append(socket.recv_multipart(zmq.NOBLOCK))
    return arrived


async def _readable(fd: int) -> None:
    """Wait until a descriptor can be read."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)


async def _send(socket: zmq.asyncio.Socket, parts: list[bytes], message: object) -> None:
    """Send to one peer at once or not at all: a peer that is gone must not hold up the rest."""
    try:
        await socket.send_multipart(parts, flags=zmq.NOBLOCK)
    except zmq.ZMQError as error:
        logger.warning("could not send %s: %s", type(message).__name__, error)
