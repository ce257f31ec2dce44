"""A scene with a real journal, written in the same order as the server writes it."""

from pathlib import Path

from broker.dispatch.commands import Command, DropJob, DropModel, SaveJob, SaveModel
from broker.dispatch.job_record import Job
from broker.journal.journal import Journal
from broker.wire.group_commands import RunJob
from broker.wire.group_shape import GroupShape
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from tests.broker.dispatch.scene import START_S, Scene, find, preempted, run_commands

SHAPES = tuple(
    GroupShape(world_size=2, num_heads=8, model=ModelProfile(name=name, content_hash=name))
    for name in ("first", "second")
)
"""Of two models; jobs that name none get the first."""
JOB_TTL_S = 500.0


class DurableScene(Scene):
    """One life of a broker: each decision is on disk before its commands are carried out.

    `Scene.journal` holds the decisions, the file what the next life reads. `sent` collects the
    commands to run a job, `asked_to_leave` the leases to leave for more urgent jobs. The caller
    clears both lists once it has delivered them.
    """

    def __init__(self, path: Path, now_s: float = START_S, num_submitted: int = 0) -> None:
        self._path = path
        self._file = Journal(path)
        self.sent: list[RunJob] = []
        self.asked_to_leave: list[Lease] = []
        super().__init__(
            *(self._file.load(), SHAPES),
            job_ttl_s=JOB_TTL_S,
            now_s=now_s,
            models=self._file.load_models(),
        )
        self.num_submitted = num_submitted

    def close(self) -> None:
        self._file.close()

    def next_life(self) -> "DurableScene":
        """Restart the broker and check that the journal holds what was decided and published."""
        self.close()
        restarted = DurableScene(self._path, self.now_s, self.num_submitted)
        decided = {job_id: job.restored() for job_id, job in self.journal.items()}
        assert restarted.journal == decided, "the journal differs from the decisions"
        known = {job.job_id for job in self.dispatcher.jobs()}
        assert restarted.journal.keys() == known, "a job was forgotten, or came back"
        for job in restarted.journal.values():
            self._check_published(job)
        return restarted

    def _check_published(self, job: Job) -> None:
        for view in self.views.get(job.job_id, [])[-1:]:
            published = (view.state, view.attempt, view.error_code, view.video)
            in_journal = (job.state, job.attempt, job.error_code, job.video)
            assert published == in_journal, "the published state is not in the journal"

    def _admit(self, job: Job) -> None:
        self._file.write([job])
        super()._admit(job)

    def _done(self, commands: list[Command]) -> list[Command]:
        saved = [save.job for save in find(commands, SaveJob)]
        dropped = [drop.job_id for drop in find(commands, DropJob)]
        models = [one for one in commands if isinstance(one, SaveModel | DropModel)]
        if saved or dropped or models:
            self._file.write(saved, dropped, models)
        self.sent += run_commands(commands)
        self.asked_to_leave += preempted(commands)
        return super()._done(commands)
