"""The WebSocket feed: a snapshot first, then every change, numbered, to the last one."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

import zmq

from broker.wire.protocol import JobHistory, JobView, WatchJob, job_events
from broker.wire.socket_reader import SocketReader
from broker.wire.sockets import connect_sub
from http_front.broker_client import BrokerClient

MAX_WAITING = 64
RESYNC_AFTER_S = 15.0
_HEX_DIGITS = b"0123456789abcdef"


class EventFeed:
    """Hears the broker's events and hands them to those who watch a job.

    Args:
        context, address: Of the events.
        broker: Is asked for what was missed.
        hearers: Take each event of each job, before who watches it: what they know is never
            older than what a watcher has been told.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        broker: BrokerClient,
        hearers: Sequence[Callable[[JobView], None]],
    ) -> None:
        self._line = SocketReader(connect_sub(context.socket(zmq.SUB), address))
        for digit in _HEX_DIGITS:  # with what a job's id begins: previews have other topics
            self._line.subscribe(bytes([digit]))
        self._hearers = hearers
        self._broker = broker
        self._mailboxes: dict[str, set[_Mailbox]] = {}
        self._reader = asyncio.create_task(self._line.read(self._hear), name="broker-events")

    @property
    def num_watchers(self) -> int:
        """How many watch a job now."""
        return sum(map(len, self._mailboxes.values()))

    async def watch(
        self, job_id: str, after_seq: int, owner: str | None = None
    ) -> AsyncGenerator[JobView, None]:
        """Yield a job as it is, then each change, in order; end after the last one there can be.

        Args:
            job_id: The job.
            after_seq: The last change that is known already; 0 for none.
            owner: Whose job it must be; None is anybody's.

        Raises:
            FrontError: If there is no such job, or the broker does not answer.
        """
        mailbox = self._subscribe(job_id)
        try:
            # Subscribed first, asked afterwards: what changes in between comes twice, not never.
            async for view in self._follow(mailbox, job_id, after_seq, owner):
                yield view
        finally:
            self._unsubscribe(job_id, mailbox)

    async def catch_up(self) -> None:
        """Return once all who watch have been told what there is now, be its event lost or late."""
        mailboxes = [mailbox for each in self._mailboxes.values() for mailbox in each]
        for mailbox in mailboxes:
            mailbox.put(None)
        await asyncio.gather(*(mailbox.emptied.wait() for mailbox in mailboxes))

    async def close(self) -> None:
        """Stop reading and close the socket."""
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._line.close()

    async def _follow(
        self, mailbox: "_Mailbox", job_id: str, after_seq: int, owner: str | None
    ) -> AsyncGenerator[JobView, None]:
        known = after_seq
        missed = await self._changes(job_id, known, owner)
        if missed and missed[-1].seq < known:
            known = 0  # there never was such a change; begin with what there is
        while True:
            for view in missed:
                if view.seq > known or view.state.is_terminal:
                    known = view.seq
                    yield view
                if view.state.is_terminal:
                    return
            event = await mailbox.take(RESYNC_AFTER_S)
            # A gap, or a silence in which the last event may have been lost: ask for it.
            whole = event is not None and event.seq <= known + 1
            missed = [event] if event and whole else await self._changes(job_id, known, owner)

    async def _changes(self, job_id: str, after_seq: int, owner: str | None) -> list[JobView]:
        reply = await self._broker.ask(WatchJob(job_id=job_id, after_seq=after_seq, owner=owner))
        assert isinstance(reply, JobHistory)
        return reply.jobs

    def _subscribe(self, job_id: str) -> "_Mailbox":
        mailbox = _Mailbox()
        mailboxes = self._mailboxes.setdefault(job_id, set())
        if not mailboxes:  # so that the broker knows that the job is watched
            self._line.subscribe(job_id.encode())
        mailboxes.add(mailbox)
        return mailbox

    def _unsubscribe(self, job_id: str, mailbox: "_Mailbox") -> None:
        mailboxes = self._mailboxes[job_id]
        mailboxes.remove(mailbox)
        mailbox.emptied.set()
        if not mailboxes:
            del self._mailboxes[job_id]
            self._line.unsubscribe(job_id.encode())

    async def _hear(self, parts: list[bytes]) -> None:
        view = job_events.decode(parts[1:])
        for hear in self._hearers:
            hear(view)
        for mailbox in self._mailboxes.get(view.job_id, ()):
            mailbox.put(view)


class _Mailbox:
    """Holds the newest events for one watcher; the oldest are dropped, and show as a gap."""

    def __init__(self) -> None:
        self._views: deque[JobView | None] = deque(maxlen=MAX_WAITING)
        self._filled = asyncio.Event()
        self.emptied = asyncio.Event()
        """All that was put in has been told."""

    def put(self, view: JobView | None) -> None:
        """Add an event; None has the broker asked, as a silence does."""
        self._views.append(view)
        self._filled.set()
        self.emptied.clear()

    async def take(self, limit_s: float) -> JobView | None:
        """Return the next event, or None after a silence."""
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
