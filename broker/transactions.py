"""Carries out what the dispatcher decides: the journal first, then everything else."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from broker.dispatch.commands import (
    Admission,
    AdmitJob,
    Client,
    Command,
    DropInput,
    DropJob,
    DropModel,
    DropVideo,
    Event,
    JobAdmitted,
    JobRefused,
    SaveJob,
    SaveKept,
    SaveModel,
)
from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.job_record import Job
from broker.errors import BackupError, JournalFullError
from broker.janitor import Janitor
from broker.journal.journal import Change, Journal
from broker.process.log import about_job
from broker.wire.errors import ErrorCode
from broker.wire.replies import BackedUp, CallbackEnded, CallbackTaken, FrontReply, Refused
from broker.wire.requests import TakeCallback

logger = logging.getLogger(__name__)

FULL_RETRY_S = 1.0
PRUNE_EVERY_S = 600.0
STORAGE_FULL = Refused(
    code=ErrorCode.STORAGE_FULL,
    message="the server's disk is full; nothing was accepted",
    retry_after_s=30,
)
_INBOX_SIZE = 1000

Result = TypeVar("Result")


class _Envelope(NamedTuple):
    """An event on its way to the dispatcher; None is a tick of the clock."""

    event: Event | None
    client: Client | None = None


class _ImagesChecked(NamedTuple):
    """New jobs, and the refusals of those whose image is not in the store."""

    jobs: Sequence[Job]
    refused: dict[str, Refused]


class Transactions:
    """Handles the events of a batch in their order, with at most two transactions.

    The first one holds the new jobs alone, so that a full disk refuses them and nothing else. The
    second one holds all other changes; on a full disk it is tried until there is room.

    Args:
        dispatcher: Decides.
        journal: Used by one thread of this class.
        janitor: Of the files of jobs.
        send: Sends to clients and peers, once everything decided before it is on disk.
        clock: A time in seconds that never goes back.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal,
        janitor: Janitor,
        send: Callable[[Command], None],
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._journal = journal
        self._janitor = janitor
        self._send = send
        self._clock = clock
        self._inbox: asyncio.Queue[_Envelope | _ImagesChecked | None] = asyncio.Queue(_INBOX_SIZE)
        self._checks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._stopping = False
        self._prune_at_s = clock()
        self.is_full = False
        """Whether the disk is full, so that nothing can be accepted."""

    async def put(self, event: Event | None, client: Client | None = None) -> None:
        """Hand over an event; wait while too many wait already."""
        await self._inbox.put(_Envelope(event, client))

    async def back_up(self, path: Path) -> FrontReply:
        try:
            return BackedUp(num_bytes=await self._in_thread(lambda: self._journal.backup(path)))
        except BackupError as error:
            return Refused(code=ErrorCode.INVALID_FIELD, message=str(error), field="path")

    async def take_callback(self, request: TakeCallback) -> FrontReply:
        now_s = self._clock()
        try:
            taken = await self._in_thread(lambda: self._journal.take_callback(now_s, request.busy))
        except JournalFullError:
            return STORAGE_FULL
        return CallbackTaken(callback=taken)

    async def end_callback(self, job_id: str) -> FrontReply:
        try:
            await self._in_thread(lambda: self._journal.end_callback(job_id))
        except JournalFullError:
            return STORAGE_FULL
        return CallbackEnded()

    async def stop(self) -> None:
        """Have `run` return once everything handed over before is done."""
        self._stopping = True
        await self._inbox.put(None)

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            JournalError: If the journal cannot be trusted any more.
        """
        is_last = False
        with self._thread:
            while not is_last or self._dispatcher.has_arriving_jobs:
                batch = [await self._inbox.get()]
                while not self._inbox.empty():
                    batch.append(self._inbox.get_nowait())
                await self._work(batch)
                is_last = is_last or None in batch

    async def _work(self, batch: Sequence[_Envelope | _ImagesChecked | None]) -> None:
        commands: list[Command] = []
        for item in batch:
            if isinstance(item, _Envelope):
                commands += self._decide(item.event, item.client)
        checked = [item for item in batch if isinstance(item, _ImagesChecked)]
        new = [command.job for command in commands if isinstance(command, AdmitJob)]
        if new and self._janitor.is_local:
            checked.append(await self._check(new))
        elif new:
            self._check_meanwhile(new)
        for check in checked:
            for admission in await self._admit(check):
                commands += self._decide(admission)
        await self._save(commands)
        for command in commands:
            await self._carry_out(command)
        await self._prune()

    def _decide(self, event: Event | None, client: Client | None = None) -> list[Command]:
        if event is None:
            return self._dispatcher.tick(self._clock())
        with about_job(_job_id(event)):
            return self._dispatcher.handle(event, self._clock(), client)

    def _check_meanwhile(self, jobs: Sequence[Job]) -> None:
        # The store may be slow: other events are handled meanwhile.
        async def check() -> None:
            await self._inbox.put(await self._check(jobs))

        task = asyncio.create_task(check())
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _check(self, jobs: Sequence[Job]) -> _ImagesChecked:
        return _ImagesChecked(jobs, await self._janitor.refusals(jobs))

    async def _admit(self, check: _ImagesChecked) -> list[Admission]:
        refused = dict(check.refused)
        jobs = [job for job in check.jobs if job.job_id not in refused]
        try:
            if jobs:
                await self._in_thread(lambda: self._journal.write(jobs))
        except JournalFullError as error:
            logger.error("refused %d jobs: %s", len(jobs), error)
            refused |= {job.job_id: STORAGE_FULL for job in jobs}
        else:
            for job in jobs:
                _log_state(job)
        return [
            JobRefused(job.job_id, refused[job.job_id])
            if job.job_id in refused
            else JobAdmitted(job.job_id)
            for job in check.jobs
        ]

    async def _save(self, commands: Sequence[Command]) -> None:
        saved = [command.job for command in commands if isinstance(command, SaveJob)]
        dropped = [command.job_id for command in commands if isinstance(command, DropJob)]
        changes = [command for command in commands if isinstance(command, Change)]
        while saved or dropped or changes:
            try:
                await self._in_thread(lambda: self._journal.write(saved, dropped, changes))
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

    async def _prune(self) -> None:
        now_s = self._clock()
        if now_s < self._prune_at_s:
            return
        self._prune_at_s = now_s + PRUNE_EVERY_S
        with suppress(JournalFullError):  # deleting needs room, too
            await self._in_thread(lambda: self._journal.prune(now_s))

    async def _carry_out(self, command: Command) -> None:
        match command:
            case AdmitJob() | SaveModel() | DropModel() | SaveKept():
                pass  # written before
            case SaveJob():
                _log_state(command.job)
            case DropJob():
                await self._janitor.remove_job(command.job_id)
                self._send(command)
            case DropInput():
                # The front may have submitted the same image again since.
                if not self._dispatcher.uses_image(command.image):
                    await self._janitor.remove_input(command.image)
            case DropVideo():
                await self._janitor.remove_video(command.job_id)
            case _:
                self._send(command)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _log_state(job: Job) -> None:
    attempt = "" if job.lease is None else f", attempt {job.attempt} on group {job.lease.group}"
    with about_job(job.job_id):
        logger.info("%s%s", job.state.value, attempt)


def _job_id(event: Event | None) -> str | None:
    lease = getattr(event, "lease", None)
    job_id: str | None = getattr(event if lease is None else lease, "job_id", None)
    return job_id
