"""A scene whose journal is the real one, written as the worker writes it."""

from pathlib import Path

from broker.dispatch.commands import Command, DropJob, SaveJob
from broker.dispatch.job_record import Job
from broker.journal.journal import Journal
from broker.wire.group_commands import RunJob
from broker.wire.job import GroupShape
from broker.wire.job_view import Lease
from tests.broker.dispatch.scene import START_S, Scene, find, preempted, runs

SMALL = GroupShape(world_size=2, num_heads=8)
JOB_TTL_S = 500.0


class DurableScene(Scene):
    """One life of a broker: what it decides is on disk before anybody hears of it.

    `Scene.journal` is what was decided, the file is what the next life will know. `sent` collects
    the runs that groups were given, and `told_to_leave` those that they shall leave for others;
    whoever hands them over empties both.
    """

    def __init__(self, path: Path, now_s: float = START_S, num_submitted: int = 0) -> None:
        self._path = path
        self._file = Journal(path)
        self.sent: list[RunJob] = []
        self.told_to_leave: list[Lease] = []
        super().__init__(self._file.load(), SMALL, job_ttl_s=JOB_TTL_S, now_s=now_s)
        self.num_submitted = num_submitted

    def close(self) -> None:
        """End this life of the broker."""
        self._file.close()

    def next_life(self) -> "DurableScene":
        """Restart the broker; it has to find what the last one decided and told."""
        self.close()
        found = DurableScene(self._path, self.now_s, self.num_submitted)
        decided = {job_id: job.restored() for job_id, job in self.journal.items()}
        assert found.journal == decided, "the journal is not what was decided"
        known = {job.job_id for job in self.dispatcher.jobs()}
        assert found.journal.keys() == known, "a job was forgotten, or came back"
        for job in found.journal.values():
            self._check_told(job)
        return found

    def _check_told(self, job: Job) -> None:
        for view in self.views.get(job.job_id, [])[-1:]:
            told = (view.state, view.attempt, view.error_code, view.video)
            assert told == (job.state, job.attempt, job.error_code, job.video), "told otherwise"

    def _admit(self, job: Job) -> None:
        self._file.write([job])
        super()._admit(job)

    def _done(self, commands: list[Command]) -> list[Command]:
        saved = [save.job for save in find(commands, SaveJob)]
        dropped = [drop.job_id for drop in find(commands, DropJob)]
        if saved or dropped:
            self._file.write(saved, dropped)
        self.sent += runs(commands)
        self.told_to_leave += preempted(commands)
        return super()._done(commands)
