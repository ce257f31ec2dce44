"""A dispatcher with a clock that the test moves, and a short method for each event."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from broker.dispatch.commands import (
    AdmitJob,
    Client,
    Command,
    DropJob,
    Event,
    JobAdmitted,
    JobRefused,
    Publish,
    Reply,
    SaveJob,
    ToGroup,
    ToLauncher,
)
from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.job_record import Job
from broker.dispatch.keeping import NO_MARKS, KeptMarks
from broker.dispatch.policy import DispatchPolicy
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import KillGroup, PreemptRun, RunJob
from broker.wire.group_reports import (
    GroupGone,
    GroupReady,
    GroupStarted,
    JobDecoded,
    JobFinished,
    JobStarted,
)
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobSpec, JobState, Stage
from broker.wire.job_view import JobView, Lease
from broker.wire.model_profile import ModelProfile
from broker.wire.rank_messages import Heartbeat, StepDone
from broker.wire.replies import FrontReply, Refused
from broker.wire.requests import CancelJob, SubmitJob
from tests.broker.dispatch import invariants
from tests.broker.driver import IMAGE, SHAPE, SPEC

Kind = TypeVar("Kind")
START_S = 1_000.0
RETRY_PAUSES_S = (5.0, 30.0)
PRIORITY_STEP_S = 60.0
CLIENT = Client(b"front", b"request")
FULL = Refused(code=ErrorCode.STORAGE_FULL, message="the disk is full")


class Scene:
    """Hands events to a dispatcher at the present time, and checks its invariants after each."""

    def __init__(
        self,
        restored: Iterable[Job] = (),
        shapes: Iterable[GroupShape] = (SHAPE,),
        is_open: bool = False,
        default_model: str | None = None,
        max_queue: int = 100,
        job_ttl_s: float = 3600.0,
        now_s: float = START_S,
        priority_step_s: float = PRIORITY_STEP_S,
        max_without_video: int = 1_000,
        images_without_video: int = 100,
        models: Iterable[ModelProfile] = (),
        models_kept_s: float = 3600.0,
        keep_limit: int = 50,
        kept: KeptMarks = NO_MARKS,
    ) -> None:
        self.now_s = now_s
        policy = DispatchPolicy(
            shapes=() if is_open else tuple(shapes),
            is_open=is_open,
            default_model=default_model,
            max_queue=max_queue,
            job_ttl_s=job_ttl_s,
            retry_pauses_s=RETRY_PAUSES_S,
            priority_step_s=priority_step_s,
            max_without_video=max_without_video,
            images_without_video=images_without_video,
            models_kept_s=models_kept_s,
            keep_limit=keep_limit,
        )
        self.dispatcher = Dispatcher(policy, restored, self.now_s, models, kept)
        self.journal: dict[str, Job] = {job.job_id: job for job in restored}
        self.views: dict[str, list[JobView]] = {}
        self.num_submitted = len(self.journal)
        self._due_at: dict[str, float] = {}
        """When the pause after a job's lost attempt ends."""

    def restarted(self) -> "Scene":
        """Return the scene of a broker that starts with this journal, at `START_S`."""
        return Scene(restored=sorted(self.journal.values(), key=lambda job: job.number))

    # --- events ----------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Command]:
        return self._done(self.dispatcher.handle(event, self.now_s, CLIENT))

    def wait(
        self, seconds: float, heartbeats_of: Sequence[str] = (), epoch: int = 1
    ) -> list[Command]:
        """Let time pass, one tick a second; all ranks of these groups send heartbeats."""
        commands: list[Command] = []
        for _ in range(round(seconds)):
            self.now_s += 1.0
            for group in heartbeats_of:
                self.heartbeat(group, epoch)
            commands += self.tick()
        return commands

    def tick(self) -> list[Command]:
        return self._done(self.dispatcher.tick(self.now_s))

    def submit(
        self,
        spec: JobSpec = SPEC,
        room: bool = True,
        priority: int = 0,
        owner: str | None = None,
        image: str = IMAGE,
        last_image: str | None = None,
    ) -> tuple[str, list[Command]]:
        """Submit a job and settle its admission: refused if the journal has no room."""
        self.num_submitted += 1
        job_id = f"{self.num_submitted:032x}"
        message = SubmitJob(
            job_id=job_id, spec=spec, image=image, last_image=last_image,
            priority=priority, owner=owner,
        )  # fmt: skip
        commands = self.handle(message)
        for admit in find(commands, AdmitJob):
            if room:
                self._admit(admit.job)
            commands += self.handle(JobAdmitted(job_id) if room else JobRefused(job_id, FULL))
        return job_id, commands

    def job(self, spec: JobSpec = SPEC, priority: int = 0, owner: str | None = None) -> str:
        job_id, _ = self.submit(spec, priority=priority, owner=owner)
        assert job_id in self.journal
        return job_id

    def wait_out_retry_pause(self) -> list[Command]:
        """Let the longest retry pause pass in one tick, so that no group counts as silent."""
        self.now_s += max(RETRY_PAUSES_S)
        return self.tick()

    def cancel(self, job_id: str) -> list[Command]:
        return self.handle(CancelJob(job_id=job_id))

    def group(
        self, name: str = "a", epoch: int = 1, shape: GroupShape = SHAPE,
        running: Sequence[Lease] = (), patience: float = 1.0,
    ) -> list[Command]:  # fmt: skip
        """Report a group as started, then as ready."""
        commands = self.handle(GroupStarted(group=name, epoch=epoch, world_size=shape.world_size))
        return commands + self.handle(
            GroupReady(
                group=name,
                epoch=epoch,
                shape=shape,
                device="test",
                patience=patience,
                running=list(running),
            )
        )

    def lose_group(self, name: str = "a", epoch: int = 1) -> list[Command]:
        return self.handle(GroupGone(group=name, epoch=epoch, reason="tested"))

    def heartbeat(
        self, group: str, epoch: int = 1, stage: Stage = Stage.IDLE, num_done: int = 0,
        ranks: Iterable[int] = range(8),
    ) -> None:  # fmt: skip
        for rank in ranks:
            message = Heartbeat(
                group=group, epoch=epoch, rank=rank, pid=1, device="test", stage=stage,
                step=0, num_done=num_done, memory_bytes=0,
            )  # fmt: skip
            self.dispatcher.on_heartbeat(message, self.now_s)

    def start(self, job_id: str) -> Lease:
        """Report that the group has started the job it was given; return the lease."""
        lease = self.lease(job_id)
        self.handle(JobStarted(lease=lease))
        return lease

    def step(
        self,
        lease: Lease,
        stage: Stage,
        step: int,
        num_steps: int,
        skipped_steps: tuple[int, ...] = (),
    ) -> list[Command]:
        return self.handle(
            StepDone(
                lease=lease,
                stage=stage,
                step=step,
                num_steps=num_steps,
                skipped_steps=skipped_steps,
            )
        )

    def finish(self, lease: Lease) -> list[Command]:
        self.handle(JobDecoded(lease=lease))
        return self.handle(JobFinished(lease=lease, video=f"{lease.job_id}.mp4"))

    # --- what can be seen ------------------------------------------------------------------------

    def view(self, job_id: str) -> JobView:
        """Return the view of the job that was published last."""
        return self.views[job_id][-1]

    def positions(self, *job_ids: str) -> list[int | None]:
        return [self.dispatcher.queue_position(job_id) for job_id in job_ids]

    def lease(self, job_id: str) -> Lease:
        """Return the job's lease in the journal."""
        lease = self.journal[job_id].lease
        assert lease is not None, f"not running: {self.journal[job_id]}"
        return lease

    def _done(self, commands: list[Command]) -> list[Command]:
        invariants.check(self.dispatcher, self.now_s)
        for command in commands:
            match command:
                case SaveJob():
                    self._save(command.job)
                case DropJob():
                    del self.journal[command.job_id]
                case Publish():
                    self._publish(command.view)
                case ToGroup(message=RunJob() as run):
                    assert self.lease(run.lease.job_id) == run.lease, "sent before it was saved"
                    due_at = self._due_at.pop(run.lease.job_id, self.now_s)
                    assert due_at <= self.now_s, "no pause after a lost attempt"
                case _:
                    pass
        return commands

    def _admit(self, job: Job) -> None:
        self._save(job)

    def _save(self, job: Job) -> None:
        before = self.journal.get(job.job_id)
        assert before is None or not before.state.is_terminal, "left a terminal state"
        if before is not None and job.state is JobState.IN_QUEUE and job.num_lost > before.num_lost:
            self._due_at[job.job_id] = self.now_s + RETRY_PAUSES_S[job.num_lost - 1]
        self.journal[job.job_id] = msgspec.structs.replace(job, due_at=0.0)

    def _publish(self, view: JobView) -> None:
        views = self.views.setdefault(view.job_id, [])
        if views:
            assert view.seq == views[-1].seq + 1, "a gap between published views"
            assert view.progress >= views[-1].progress, "progress went back"
        views.append(view)


def find(commands: Iterable[Command], kind: type[Kind]) -> list[Kind]:
    return [command for command in commands if isinstance(command, kind)]


def reply(commands: Iterable[Command]) -> FrontReply:
    """Return the message of the only reply."""
    (only,) = find(commands, Reply)
    return only.message


def run_commands(commands: Iterable[Command]) -> list[RunJob]:
    messages = [command.message for command in find(commands, ToGroup)]
    return [message for message in messages if isinstance(message, RunJob)]


def preempted(commands: Iterable[Command]) -> list[Lease]:
    """Return the leases that groups are asked to leave for more urgent jobs."""
    messages = [command.message for command in find(commands, ToGroup)]
    return [message.lease for message in messages if isinstance(message, PreemptRun)]


def kill_commands(commands: Iterable[Command]) -> list[KillGroup]:
    messages = [command.message for command in find(commands, ToLauncher)]
    return [message for message in messages if isinstance(message, KillGroup)]


def old_job(state: JobState, at_s: float) -> Job:
    """Return a job whose journal entry was created and last changed at `at_s`."""
    return Job(
        number=1, job_id="a" * 32, spec=SPEC, image=IMAGE, created_at=at_s, updated_at=at_s,
        state=state,
    )  # fmt: skip
