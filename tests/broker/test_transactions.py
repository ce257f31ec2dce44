"""The worker: what it does about a batch of events, with a clock that the test sets."""

import asyncio
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
from tests.broker.dispatch.scene import find, runs
from tests.broker.driver import IMAGE, LIMIT_S, POLICY, SHAPE, SPEC

SOMEBODY = Client(b"front", b"1")
FIRST, SECOND = f"{1:032x}", f"{2:032x}"
PAUSE_S = 5.0


class Desk:
    """A worker, and what it has carried out."""

    def __init__(self, path: Path) -> None:
        self.now_s = 0.0
        self.state_dir = state_dir = StateDir(path)
        self.journal = Journal(state_dir.journal)
        self._done = asyncio.Queue[Command]()
        dispatcher = Dispatcher(structs.replace(POLICY, retry_pauses_s=(PAUSE_S, PAUSE_S)))
        keeper = Janitor(FolderStore(path), dispatcher)
        keeper.begin()
        (path / "inputs" / IMAGE).write_bytes(b"an image")
        self.worker = Transactions(
            dispatcher, self.journal, keeper, self._done.put_nowait, lambda: self.now_s
        )

    def close(self) -> None:
        self.journal.close()
        self.state_dir.close()

    async def put(self, *events: Event) -> None:
        for event in events:
            await self.worker.put(event, SOMEBODY)

    async def told(self) -> Reply | ToGroup:
        """Return the next thing that was said to a client or a group."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                command = await self._done.get()
                if isinstance(command, Reply | ToGroup):
                    return command


def submit(job_id: str) -> SubmitJob:
    return SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE)


def started(epoch: int) -> list[Event]:
    return [
        GroupStarted(group="a", epoch=epoch, world_size=SHAPE.world_size),
        GroupReady(group="a", epoch=epoch, shape=SHAPE, device="test"),
    ]


async def test_a_submission_may_be_what_has_another_job_given_to_a_group(tmp_path: Path) -> None:
    """The pause after a lost attempt ends between two ticks, and a submission comes first.

    Seen to fail with every job that is saved at a submission taken for the submitted one.
    """
    with closing(Desk(tmp_path)) as desk:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(desk.worker.run())
            await desk.put(submit(FIRST), *started(1))
            assert isinstance(await desk.told(), Reply)
            assert isinstance(await desk.told(), ToGroup)
            gone = GroupGone(group="a", epoch=1, reason="tested")
            await desk.put(gone, *started(2), OfferJob(spec=SPEC))
            assert await desk.told() == Reply(SOMEBODY, JobAcceptable())
            desk.now_s = PAUSE_S
            await desk.put(submit(SECOND))
            told = [await desk.told(), await desk.told()]
            await desk.worker.stop()
        first, second = desk.journal.load()
    (answer,) = find(told, Reply)
    assert isinstance(answer.message, JobFound)
    (run,) = runs(told)
    assert (run.lease.job_id, run.lease.attempt) == (FIRST, 2)
    assert (first.state, first.lease) == (JobState.IN_PROGRESS, run.lease)
    assert (second.job_id, second.state) == (SECOND, JobState.IN_QUEUE)
