"""Transactions on a real journal, with a clock that the test sets."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import structs

from broker.dispatch.commands import Client, Command, Event, Reply, ToGroup
from broker.dispatch.dispatcher import Dispatcher
from broker.janitor import Janitor
from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from broker.store.folder import FolderStore
from broker.transactions import Transactions
from broker.wire.group_reports import GroupGone, GroupReady, GroupStarted
from broker.wire.job import JobState
from broker.wire.replies import JobAcceptable, JobFound
from broker.wire.requests import OfferJob, SubmitJob
from tests.broker.dispatch.scene import find, run_commands
from tests.broker.driver import IMAGE, LIMIT_S, POLICY, SHAPE, SPEC

CLIENT = Client(b"front", b"1")
FIRST, SECOND = f"{1:032x}", f"{2:032x}"
PAUSE_S = 5.0


class JournalledDispatcher:
    """A dispatcher behind `Transactions`, and the commands that were carried out."""

    def __init__(self, path: Path) -> None:
        self.now_s = 0.0
        self.state_dir = state_dir = StateDir(path)
        self.journal = Journal(state_dir.journal)
        self._carried_out = asyncio.Queue[Command]()
        dispatcher = Dispatcher(structs.replace(POLICY, retry_pauses_s=(PAUSE_S, PAUSE_S)))
        janitor = Janitor(FolderStore(path), dispatcher)
        janitor.begin()
        (path / "inputs" / IMAGE).write_bytes(b"an image")
        self.transactions = Transactions(
            dispatcher, self.journal, janitor, self._carried_out.put_nowait, lambda: self.now_s
        )

    def close(self) -> None:
        self.journal.close()
        self.state_dir.close()

    async def put(self, *events: Event) -> None:
        for event in events:
            await self.transactions.put(event, CLIENT)

    async def next_message(self) -> Reply | ToGroup:
        """Return the next message to a client or a group."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                command = await self._carried_out.get()
                if isinstance(command, Reply | ToGroup):
                    return command


def submit(job_id: str) -> SubmitJob:
    return SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE)


def started(epoch: int) -> list[Event]:
    return [
        GroupStarted(group="a", epoch=epoch, world_size=SHAPE.world_size),
        GroupReady(group="a", epoch=epoch, shape=SHAPE, device="test"),
    ]


async def test_a_submit_may_cause_another_job_to_be_given_to_a_group(tmp_path: Path) -> None:
    """The pause after a lost attempt ends between two ticks, and a submit arrives first."""
    with closing(JournalledDispatcher(tmp_path)) as system:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(system.transactions.run())
            await system.put(submit(FIRST), *started(1))
            assert isinstance(await system.next_message(), Reply)
            assert isinstance(await system.next_message(), ToGroup)
            gone = GroupGone(group="a", epoch=1, reason="tested")
            await system.put(gone, *started(2), OfferJob(spec=SPEC))
            assert await system.next_message() == Reply(CLIENT, JobAcceptable())
            system.now_s = PAUSE_S
            await system.put(submit(SECOND))
            messages = [await system.next_message(), await system.next_message()]
            await system.transactions.stop()
        first, second = system.journal.load()
    (reply,) = find(messages, Reply)
    assert isinstance(reply.message, JobFound)
    (run,) = run_commands(messages)
    assert (run.lease.job_id, run.lease.attempt) == (FIRST, 2)
    assert (first.state, first.lease) == (JobState.IN_PROGRESS, run.lease)
    assert (second.job_id, second.state) == (SECOND, JobState.IN_QUEUE)


async def test_old_history_is_forgotten_while_the_broker_runs(tmp_path: Path) -> None:
    with closing(JournalledDispatcher(tmp_path)) as system:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(system.transactions.run())
            await system.put(submit(FIRST))
            assert isinstance(await system.next_message(), Reply)
            system.now_s = 8 * 86_400.0
            await system.put(submit(SECOND))
            await system.transactions.stop()
    with closing(sqlite3.connect(system.state_dir.journal)) as journal:
        kept = journal.execute("SELECT DISTINCT job_id FROM history").fetchall()
    assert kept == [(SECOND,)]
