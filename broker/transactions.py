"""The one place where events become facts: dispatcher, then journal, then the world."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from broker.dispatch.commands import (
    AnswerAfter,
    Command,
    DropInput,
    DropJob,
    DropVideo,
    Event,
    JobNotStored,
    JobStored,
    Reply,
    SaveJob,
)
from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.job_record import Job
from broker.errors import BackupError, JournalFullError
from broker.janitor import Janitor
from broker.journal.journal import Journal
from broker.process.log import about_job
from broker.wire.protocol import (
    BackedUp,
    CallbackEnded,
    CallbackTaken,
    ErrorCode,
    FrontReply,
    Refused,
    SubmitJob,
)

logger = logging.getLogger(__name__)

FULL_RETRY_S = 1.0
STORAGE_FULL = Refused(
    code=ErrorCode.STORAGE_FULL,
    message="the server's disk is full; nothing was accepted",
    retry_after_s=30,
)
_INBOX_SIZE = 1000

Result = TypeVar("Result")


class Client(NamedTuple):
    """Who waits for an answer, and to which of its requests."""

    identity: bytes
    correlation: bytes


class ImagesChecked(NamedTuple):
    """It is known of new jobs whether their images are there."""

    job_ids: Sequence[str]
    refused: dict[str, Refused]
    """Those that cannot be accepted for it."""


class Envelope(NamedTuple):
    """An event on its way to the dispatcher; no event is a tick of the clock."""

    event: Event | None
    client: Client | None = None


class _Arrival(NamedTuple):
    """A new job that is not in the journal yet, and who waits for what becomes of it."""

    job: Job
    waiting: list[Envelope]


_Task = tuple[Command, Client | None]


class Transactions:
    """Handles what arrived together as one: two transactions at most, then all that follows.

    Args:
        dispatcher: Decides.
        journal: Remembers; used by a thread of its own.
        keeper: Of the files of jobs.
        carry_out: Sends what the dispatcher wants sent, once all before it is on disk; a reply
            to the client that it is given.
        clock: A time that never goes back.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal,
        keeper: Janitor,
        carry_out: Callable[[Command, Client | None], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._journal = journal
        self._keeper = keeper
        self._carry_out = carry_out
        self._clock = clock
        self._inbox: asyncio.Queue[Envelope | ImagesChecked | None] = asyncio.Queue(_INBOX_SIZE)
        self._arrivals: dict[str, _Arrival] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._stopping = False
        self.is_full = False
        """Whether the disk is full, so that nothing can be accepted."""

    async def put(self, event: Event | None, client: Client | None = None) -> None:
        """Hand over an event; waits while too many wait already."""
        await self._inbox.put(Envelope(event, client))

    async def back_up(self, path: Path) -> FrontReply:
        """Copy the journal; return the answer for the operator."""
        try:
            return BackedUp(num_bytes=await self._in_thread(lambda: self._journal.backup(path)))
        except BackupError as error:
            return Refused(code=ErrorCode.INVALID_FIELD, message=str(error), field="path")

    async def take_callback(self, now_s: float) -> FrontReply:
        """Return the callback that is due, for the front that makes it."""
        try:
            taken = await self._in_thread(lambda: self._journal.take_callback(now_s))
        except JournalFullError:
            return STORAGE_FULL
        return CallbackTaken(callback=taken)

    async def end_callback(self, job_id: str) -> FrontReply:
        """Note that a callback was heard."""
        try:
            await self._in_thread(lambda: self._journal.end_callback(job_id))
        except JournalFullError:
            return STORAGE_FULL
        return CallbackEnded()

    async def stop(self) -> None:
        """Have `run` return once all that was handed over before is done."""
        self._stopping = True
        await self._inbox.put(None)

    async def run(self) -> None:
        """Work until told to stop.

        Raises:
            JournalError: If the journal cannot be trusted any more.
        """
        is_last = False
        with self._thread:
            while not (is_last and not self._arrivals):
                batch = [await self._inbox.get()]
                while not self._inbox.empty():
                    batch.append(self._inbox.get_nowait())
                await self._work(batch)
                is_last = is_last or None in batch

    async def _work(self, batch: Sequence[Envelope | ImagesChecked | None]) -> None:
        envelopes = [item for item in batch if isinstance(item, Envelope)]
        submits = [item for item in envelopes if isinstance(item.event, SubmitJob)]
        others = [item for item in envelopes if not isinstance(item.event, SubmitJob)]
        tasks, new = self._meet(submits)
        checked = [item for item in batch if isinstance(item, ImagesChecked)]
        if new and self._keeper.is_local:
            checked.append(await self._check(new))
        elif new:
            self._check_meanwhile(new)
        for check in checked:
            tasks += await self._take_in(check)
        for envelope in others:
            tasks += [(command, envelope.client) for command in self._decide(envelope.event)]
        await self._store([command for command, _ in tasks])
        for command, client in tasks:
            await self._finish(command, client)

    def _decide(self, event: Event | None) -> list[Command]:
        if event is None:
            return self._dispatcher.tick(self._clock())
        with about_job(_job_id(event)):
            return self._dispatcher.handle(event, self._clock())

    def _meet(self, submits: Sequence[Envelope]) -> tuple[list[_Task], list[Job]]:
        """Return what follows at once from submissions, and the new jobs, still to be checked."""
        tasks: list[_Task] = []
        new: list[Job] = []
        for envelope in submits:
            for command in self._decide(envelope.event):
                match command:
                    # Its arrival may be what has others saved, as one whose pause is over.
                    case SaveJob() if command.job.job_id == _job_id(envelope.event):
                        self._arrivals[command.job.job_id] = _Arrival(command.job, [])
                        new.append(command.job)
                    case AnswerAfter():
                        self._arrivals[command.job_id].waiting.append(envelope)
                    case _:
                        tasks.append((command, envelope.client))
        return tasks, new

    def _check_meanwhile(self, jobs: Sequence[Job]) -> None:
        """Look for images in a store that may be slow, and handle other events until it answers."""

        async def check() -> None:
            await self._inbox.put(await self._check(jobs))

        task = asyncio.create_task(check())
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _check(self, jobs: Sequence[Job]) -> ImagesChecked:
        refused = await self._keeper.refusals(jobs)
        return ImagesChecked([job.job_id for job in jobs], refused)

    async def _take_in(self, check: ImagesChecked) -> list[_Task]:
        """Write the new jobs on their own, so that a full disk refuses them and nothing else."""
        arrivals = [self._arrivals.pop(job_id) for job_id in check.job_ids]
        refused = check.refused | await self._write_new(
            [arrival.job for arrival in arrivals if arrival.job.job_id not in check.refused]
        )
        tasks: list[_Task] = []
        for job, _ in arrivals:
            event = (JobNotStored if job.job_id in refused else JobStored)(job.job_id)
            if isinstance(event, JobStored):
                _log_move(job)
            tasks += [(command, None) for command in self._decide(event)]
        for job, waiting in arrivals:
            for envelope in waiting:
                refusal = refused.get(job.job_id)
                answers = [Reply(refusal)] if refusal else self._decide(envelope.event)
                tasks += [(command, envelope.client) for command in answers]
        return tasks

    async def _write_new(self, jobs: Sequence[Job]) -> dict[str, Refused]:
        """Write new jobs; return those for which the disk has no room."""
        try:
            if jobs:
                await self._in_thread(lambda: self._journal.write(jobs))
        except JournalFullError as error:
            logger.error("refused %d jobs: %s", len(jobs), error)
            return {job.job_id: STORAGE_FULL for job in jobs}
        return {}

    async def _store(self, commands: Sequence[Command]) -> None:
        """Write what has been decided; on a full disk try until there is room."""
        saved = [command.job for command in commands if isinstance(command, SaveJob)]
        dropped = [command.job_id for command in commands if isinstance(command, DropJob)]
        while saved or dropped:
            try:
                await self._in_thread(lambda: self._journal.write(saved, dropped))
            except JournalFullError as error:
                if self._stopping:
                    raise
                if not self.is_full:
                    logger.error("waiting for room on the disk: %s", error)
                self.is_full = True
                await asyncio.sleep(FULL_RETRY_S)
            else:
                break
        if self.is_full:
            logger.warning("there is room on the disk again")
            self.is_full = False

    async def _finish(self, command: Command, client: Client | None) -> None:
        match command:
            case SaveJob():
                _log_move(command.job)
                return
            case DropJob():
                await self._keeper.remove_job(command.job_id)
            case DropInput():
                # The front may have submitted the same picture again since.
                if not self._dispatcher.uses_image(command.image):
                    await self._keeper.remove_input(command.image)
                return
            case DropVideo():
                await self._keeper.remove_video(command.job_id)
                return
            case _:
                pass
        await self._carry_out(command, client)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _log_move(job: Job) -> None:
    """Tell of a job's state, which is on disk now."""
    run = "" if job.lease is None else f", attempt {job.attempt} on group {job.lease.group}"
    with about_job(job.job_id):
        logger.info("%s%s", job.state.value, run)


def _job_id(event: Event | None) -> str | None:
    """Return the job that an event is about, for the log."""
    lease = getattr(event, "lease", None)
    job_id: str | None = getattr(event if lease is None else lease, "job_id", None)
    return job_id
