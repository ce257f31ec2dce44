"""The broker's sockets: messages become events, commands become messages."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import assert_never

import msgspec
import zmq
import zmq.asyncio

from broker.config import BrokerConfig
from broker.dispatch.commands import (
    AskHowItEnded,
    Client,
    Command,
    DropJob,
    GroupsNamed,
    Publish,
    Reply,
    ReportDrained,
    SpaceLow,
    StopLaunchers,
    ToGroup,
    ToLauncher,
    WatchersChanged,
)
from broker.dispatch.dispatcher import Dispatcher
from broker.errors import JournalFullError, SocketRemovedError
from broker.history import History
from broker.janitor import Janitor
from broker.job_search import has_words
from broker.journal.journal import Journal
from broker.peers import Peers
from broker.process import child
from broker.steady_clock import SteadyClock
from broker.store.opening import open_store
from broker.transactions import STORAGE_FULL, Transactions
from broker.wire.curve import Gatekeeper
from broker.wire.errors import ProtocolError
from broker.wire.events import job_events, job_previews, preview_topic
from broker.wire.group_commands import Drained, GroupCommand, Reregister, StopServer, group_commands
from broker.wire.group_reports import DrainBroker, GroupStarted, LauncherHere, group_reports
from broker.wire.job import JobState
from broker.wire.job_view import JobView
from broker.wire.rank_messages import Heartbeat, JobPreview, StepDone, rank_messages
from broker.wire.replies import FrontReply, JobFound, JobHistory, ProbeChecked, front_replies
from broker.wire.requests import (
    BackUp,
    CancelJob,
    DeleteJob,
    DrainServer,
    EndCallback,
    FindProbe,
    GetHealth,
    GetJob,
    KeepJob,
    ListJobs,
    ListModels,
    OfferJob,
    RemoveExpired,
    SubmitJob,
    TakeCallback,
    WatchJob,
    front_requests,
)
from broker.wire.socket_reader import GATHER_S, SocketReader
from broker.wire.sockets import bind_router, bind_sub, bind_xpub, split_keys

logger = logging.getLogger(__name__)

TICK_S = 1.0
_FAREWELL_MS = 1000
_MAX_LISTED = 1000


class Broker:
    """One broker on its four sockets; created inside a running event loop.

    Args:
        config: Addresses and limits.
        journal: In the locked state directory.
    """

    def __init__(self, config: BrokerConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._clock = SteadyClock()
        jobs = journal.load()
        now_s = self._clock()
        with suppress(JournalFullError):
            journal.limit_callback_delays(now_s)
        self._dispatcher = Dispatcher(
            config.policy, jobs, now_s, journal.load_models(), journal.load_kept()
        )
        self._history = History(self._dispatcher.views(now_s))
        self._peers = Peers()
        self._janitor = Janitor(
            open_store(config.store or config.state_dir), self._dispatcher, config.min_free_bytes
        )
        self._janitor.begin()
        self._transactions = Transactions(
            self._dispatcher, journal, self._janitor, self._send, self._clock
        )
        self._context = zmq.asyncio.Context()
        self._gatekeeper = Gatekeeper(self._context)
        self._readers: list[SocketReader] = []

    async def run(self) -> None:
        """Serve until `stop` is called.

        Raises:
            JournalError: If the journal cannot be trusted any more.
            SocketRemovedError: If a socket's file was removed.
        """
        try:
            self._bind()
            child.report(self._config.ready_fd, "ready")
            logger.info("ready")
            await self._serve()
        finally:
            self._janitor.close()
            self._gatekeeper.close()
            for reader in self._readers:
                reader.close(_FAREWELL_MS)
            self._context.destroy()

    async def stop(self) -> None:
        await self._transactions.stop()

    def _bind(self) -> None:
        ends = [end for end in (self._config.addresses, self._config.listen) if end is not None]
        self._requests = self._bind_socket(zmq.ROUTER, bind_router, [end.requests for end in ends])
        self._groups = self._bind_socket(zmq.ROUTER, bind_router, [end.groups for end in ends])
        self._beats = self._bind_socket(zmq.SUB, bind_sub, [end.beats for end in ends])
        self._events = self._bind_socket(zmq.XPUB, bind_xpub, [end.events for end in ends])

    def _bind_socket(
        self, kind: int, bind: Callable[..., object], addresses: list[str]
    ) -> SocketReader:
        socket: zmq.Socket[bytes] = zmq.Socket(self._context, kind)
        # Before anything can fail: the context waits at its end for every socket to be closed.
        self._readers.append(SocketReader(socket))
        for address, folder in map(split_keys, addresses):
            if folder is not None:
                self._gatekeeper.open(folder)
                self._gatekeeper.watch(socket, address)
        bind(socket, *addresses)
        return self._readers[-1]

    async def _serve(self) -> None:
        if self._config.groups is not None:
            await self._transactions.put(GroupsNamed(self._config.groups))
        if self._config.draining:
            await self._transactions.put(DrainBroker())
        # No receive is ever cancelled while its message matters: that would lose messages.
        tasks = [
            asyncio.create_task(self._transactions.run()),
            asyncio.create_task(self._janitor.run()),
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._requests.read(self._on_request)),
            asyncio.create_task(self._groups.read(self._on_report, GATHER_S)),
            asyncio.create_task(self._beats.read(self._on_beat, GATHER_S)),
            asyncio.create_task(self._events.read(self._on_subscription)),
            asyncio.create_task(child.send_life_signs(self._config.ready_fd)),
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
            self._clock.follow_system()
            self._journal.expect_in_place()
            self._expect_sockets()
            if self._janitor.is_space_low:
                # First of all: removing videos is what may end a full disk.
                await self._transactions.put(SpaceLow())
            if not self._transactions.is_full:
                await self._transactions.put(None)

    def _expect_sockets(self) -> None:
        for address in msgspec.structs.astuple(self._config.addresses):
            scheme, _, path = address.partition("://")
            if scheme == "ipc" and not Path(path).exists():
                raise SocketRemovedError(f"{path} was removed under the running server")

    # --- what comes in ---------------------------------------------------------------------------

    async def _on_request(self, parts: list[bytes]) -> None:
        if len(parts) < 2:
            raise ProtocolError(f"expected a correlation id, found {len(parts)} parts")
        client = Client(parts[0], parts[1])
        request = front_requests.decode(parts[2:])
        match request:
            case OfferJob() | SubmitJob() if self._transactions.is_full:
                self._answer(client, STORAGE_FULL)
            case (
                OfferJob()
                | SubmitJob()
                | CancelJob()
                | DeleteJob()
                | KeepJob()
                | RemoveExpired()
                | DrainServer()
            ):
                await self._transactions.put(request, client)
            case GetJob() | GetHealth() | ListModels():
                self._answer(client, self._present_state(request))
            case WatchJob():
                self._answer(client, self._changes(request))
            case ListJobs():
                limit = min(max(request.limit, 0), _MAX_LISTED)
                page = self._history.page(
                    request, limit, lambda view: self._is_wanted(request, view)
                )
                jobs = [job for view in page.jobs if (job := self._detailed(view)) is not None]
                self._answer(client, msgspec.structs.replace(page, jobs=jobs))
            case TakeCallback() | EndCallback() | BackUp():
                self._answer(client, await self._ask_journal(request))
            case FindProbe():
                found = await self._janitor.has_probe(request.name)
                self._answer(client, ProbeChecked(found=found))
            case _:
                assert_never(request)

    def _is_wanted(self, request: ListJobs, view: JobView) -> bool:
        job = self._dispatcher.job(view.job_id)
        if job is None or (request.kept and not self._dispatcher.with_expiry(view).kept):
            return False
        return has_words(job.spec, job.job_id, request.words)

    async def _ask_journal(self, request: TakeCallback | EndCallback | BackUp) -> FrontReply:
        match request:
            case TakeCallback():
                return await self._transactions.take_callback(request)
            case EndCallback():
                return await self._transactions.end_callback(request.job_id)
            case BackUp():
                return await self._transactions.back_up(Path(request.path))

    def _present_state(self, request: GetJob | GetHealth | ListModels) -> FrontReply:
        match request:
            case GetJob():
                view = self._history.latest(request.job_id, request.owner)
                found = None if view is None else self._detailed(view)
                return self._unknown(request) if found is None else JobFound(job=found)
            case GetHealth():
                return self._dispatcher.health()
            case ListModels():
                return self._dispatcher.models()

    def _changes(self, request: WatchJob) -> FrontReply:
        jobs = self._history.after(request.job_id, request.after_seq, request.owner)
        if not jobs:
            return self._unknown(request)
        return JobHistory(jobs=[self._dispatcher.with_expiry(job) for job in jobs])

    def _unknown(self, request: GetJob | WatchJob) -> FrontReply:
        return self._dispatcher.refusal(request.job_id, request.owner)

    def _detailed(self, view: JobView) -> JobView | None:
        job = self._dispatcher.job(view.job_id)
        if job is None:
            # The job is being removed.
            return None
        eta_s = position = None
        reason = view.reason
        if not view.state.is_terminal:
            eta_s = self._dispatcher.eta_s(view.job_id, self._clock())
        if view.state is JobState.IN_QUEUE:
            # It may have left the queue while the journal is still being written.
            position = self._dispatcher.queue_position(view.job_id) or view.queue_position
            reason = self._dispatcher.waiting_reason(view.job_id)
        return msgspec.structs.replace(
            self._dispatcher.with_expiry(view),
            queue_position=position,
            reason=reason,
            eta_s=eta_s,
            spec=job.spec,
            image=job.image,
            last_image=job.last_image,
        )

    async def _on_report(self, parts: list[bytes]) -> None:
        identity, report = parts[0], group_reports.decode(parts[1:])
        is_new = not self._peers.knows(identity)
        if not self._peers.admit(identity, report):
            logger.warning("dropped %s of a peer that may not send it", type(report).__name__)
            return
        if is_new:
            # Also if this report registers it: the last broker may have died with an earlier one.
            self._command(identity, Reregister())
        match report:
            case LauncherHere():
                pass
            case GroupStarted() if self._dispatcher.is_repeated(report, self._clock()):
                pass  # half of all messages of thousands of groups
            case _:
                await self._transactions.put(report)

    async def _on_beat(self, parts: list[bytes]) -> None:
        message = rank_messages.decode(parts)
        match message:
            case Heartbeat():
                self._dispatcher.on_heartbeat(message, self._clock())
            case StepDone() if self._transactions.is_full:
                pass  # nothing can be decided now, and steps are soon stale
            case StepDone():
                await self._transactions.put(message)
            case JobPreview():
                self._relay(message)
            case _:
                assert_never(message)

    async def _on_subscription(self, parts: list[bytes]) -> None:
        # A new subscriber gets the present state at once, so that no change between a front's
        # request and its subscription is missed.
        is_start, job_id = parts[0][:1] == b"\x01", parts[0][1:].decode(errors="replace")
        view = self._history.latest(job_id)
        if view is None:
            return
        if is_start:
            self._publish(view)
        await self._transactions.put(WatchersChanged(job_id, is_start))

    # --- what goes out ---------------------------------------------------------------------------

    def _send(self, command: Command) -> None:
        match command:
            case Reply():
                self._answer(command.client, command.message)
            case Publish():
                self._history.add(command.view)
                self._publish(command.view)
            case DropJob():
                self._history.drop(command.job_id)
            case _:
                self._command_peers(command)

    def _command_peers(self, command: Command) -> None:
        match command:
            case ToGroup():
                self._command(self._peers.holder(command.message.lease), command.message)
            case AskHowItEnded():
                self._command(self._peers.holder(command.lease), Reregister())
            case ToLauncher():
                self._command(self._peers.launcher(command.group), command.message)
            case StopLaunchers():
                for identity in self._peers.launchers():
                    self._command(identity, StopServer())
            case ReportDrained():
                for identity in self._peers.drainers():
                    self._command(identity, Drained())
            case _:
                raise AssertionError(f"cannot be sent: {command}")

    def _publish(self, view: JobView) -> None:
        view = self._clock.shown_view(self._dispatcher.with_expiry(view))
        self._events.send([view.job_id.encode(), *job_events.encode(view)], view)

    def _relay(self, preview: JobPreview) -> None:
        if self._dispatcher.is_running(preview.lease):
            topic = preview_topic(preview.lease.job_id)
            self._events.send([topic, *job_previews.encode(preview)], preview)

    def _answer(self, client: Client, reply: FrontReply) -> None:
        reply = self._clock.shown_reply(reply)
        self._requests.send([*client, *front_replies.encode(reply)], reply)

    def _command(self, identity: bytes | None, command: GroupCommand) -> None:
        if identity is None:
            logger.warning("no connected peer for %s", type(command).__name__)
            return
        self._groups.send([identity, *group_commands.encode(command)], command)
