"""Delivers a job's numbered changes to its watchers, without gaps."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

import zmq

from broker.wire.events import job_events
from broker.wire.job_view import JobView
from broker.wire.requests import WatchJob
from broker.wire.socket_reader import SocketReader
from broker.wire.sockets import connect_sub
from http_front.broker_client import BrokerClient

MAILBOX_SIZE = 64
RESYNC_AFTER_S = 15.0
_HEX_DIGITS = b"0123456789abcdef"


class EventFeed:
    """Receives the broker's events and passes them to the watchers of each job.

    Args:
        context, address: ZeroMQ context, and address of the broker's events.
        broker: Answers requests for missed changes.
        listeners: Called with every event of every job, before the job's watchers get it. So they
            never know less than a watcher does.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        broker: BrokerClient,
        listeners: Sequence[Callable[[JobView], None]],
    ) -> None:
        self._socket = SocketReader(connect_sub(context.socket(zmq.SUB), address))
        for digit in _HEX_DIGITS:  # all job ids, but not previews, whose topics start otherwise
            self._socket.subscribe(bytes([digit]))
        self._listeners = listeners
        self._broker = broker
        self._mailboxes: dict[str, set[_Mailbox]] = {}
        self._reader = asyncio.create_task(self._socket.read(self._receive), name="broker-events")

    async def watch(
        self, job_id: str, after_seq: int, owner: str | None = None
    ) -> AsyncGenerator[JobView, None]:
        """Yield the job as it is now, then each change in order, until the job has ended.

        Args:
            job_id: Id of the job.
            after_seq: `seq` of the last change that the watcher knows; 0 for none.
            owner: Required owner of the job; None allows any owner.

        Raises:
            FrontError: If there is no such job, or the broker does not reply.
        """
        mailbox = self._subscribe(job_id)
        try:
            # Subscribe before asking the broker: a change in between then arrives twice instead
            # of being lost.
            async for view in self._follow(mailbox, job_id, after_seq, owner):
                yield view
        finally:
            self._unsubscribe(job_id, mailbox)

    async def catch_up(self) -> None:
        """Wait until all watchers have every change so far, even one whose event was lost."""
        mailboxes = [mailbox for each in self._mailboxes.values() for mailbox in each]
        for mailbox in mailboxes:
            mailbox.put(None)
        await asyncio.gather(*(mailbox.emptied.wait() for mailbox in mailboxes))

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._socket.close()

    async def _follow(
        self, mailbox: "_Mailbox", job_id: str, after_seq: int, owner: str | None
    ) -> AsyncGenerator[JobView, None]:
        known = after_seq
        missed = await self._changes(job_id, known, owner)
        if missed and missed[-1].seq < known:
            known = 0  # the watcher's seq does not exist; start with the current state
        while True:
            for view in missed:
                if view.seq > known or view.state.is_terminal:
                    known = view.seq
                    yield view
                if view.state.is_terminal:
                    return
            event = await mailbox.take(RESYNC_AFTER_S)
            # After a gap, or a pause in which an event may have been lost, ask the broker.
            is_next = event is not None and event.seq <= known + 1
            missed = [event] if event and is_next else await self._changes(job_id, known, owner)

    async def _changes(self, job_id: str, after_seq: int, owner: str | None) -> list[JobView]:
        reply = await self._broker.ask(WatchJob(job_id=job_id, after_seq=after_seq, owner=owner))
        return reply.jobs

    def _subscribe(self, job_id: str) -> "_Mailbox":
        mailbox = _Mailbox()
        mailboxes = self._mailboxes.setdefault(job_id, set())
        if not mailboxes:  # a subscription to the full id shows the broker that the job is watched
            self._socket.subscribe(job_id.encode())
        mailboxes.add(mailbox)
        return mailbox

    def _unsubscribe(self, job_id: str, mailbox: "_Mailbox") -> None:
        mailboxes = self._mailboxes[job_id]
        mailboxes.remove(mailbox)
        mailbox.emptied.set()
        if not mailboxes:
            del self._mailboxes[job_id]
            self._socket.unsubscribe(job_id.encode())

    async def _receive(self, parts: list[bytes]) -> None:
        view = job_events.decode(parts[1:])
        for listener in self._listeners:
            listener(view)
        for mailbox in self._mailboxes.get(view.job_id, ()):
            mailbox.put(view)


class _Mailbox:
    """Holds the newest events for one watcher. If it overflows, the watcher sees a gap in `seq`."""

    def __init__(self) -> None:
        self._views: deque[JobView | None] = deque(maxlen=MAILBOX_SIZE)
        self._filled = asyncio.Event()
        self.emptied = asyncio.Event()
        """Set when the watcher has handled all events."""

    def put(self, view: JobView | None) -> None:
        """Add an event; None makes the watcher ask the broker."""
        self._views.append(view)
        self._filled.set()
        self.emptied.clear()

    async def take(self, limit_s: float) -> JobView | None:
        """Return the next event, or None if there is none within the limit."""
        if not self._views:
            self.emptied.set()
        try:
            async with asyncio.timeout(limit_s):
                await self._filled.wait()
        except TimeoutError:
            return None
        view = self._views.popleft()
        if not self._views:
            self._filled.clear()
        return view
