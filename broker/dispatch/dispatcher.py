"""Which job runs where: events and time in, commands out; no socket, no file, no clock."""

from collections.abc import Iterable
from typing import assert_never

import msgspec

from broker.dispatch.attempt_lifecycle import AttemptLifecycle
from broker.dispatch.commands import (
    Client,
    Command,
    Event,
    GroupsNamed,
    JobAdmitted,
    JobRefused,
    Reply,
    ReportDrained,
    SaveJob,
    SpaceLow,
    StopLaunchers,
    ToGroup,
    WatchersChanged,
)
from broker.dispatch.dispatch_state import DispatchState
from broker.dispatch.group_lifecycle import GroupLifecycle
from broker.dispatch.groups import Group
from broker.dispatch.intake import Intake
from broker.dispatch.job_record import Job
from broker.dispatch.job_table import JobTable
from broker.dispatch.keeping import NO_MARKS, KeptMarks
from broker.dispatch.model_catalogue import ModelCatalogue
from broker.dispatch.model_lifecycle import ModelLifecycle
from broker.dispatch.policy import DispatchPolicy
from broker.dispatch.preemption import Preemption
from broker.wire.group_commands import RunJob
from broker.wire.group_reports import (
    DrainBroker,
    DrainGroup,
    GroupGone,
    GroupLost,
    GroupReady,
    GroupStarted,
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.job_view import JobView, Lease
from broker.wire.model_profile import ModelProfile
from broker.wire.rank_messages import Heartbeat, StepDone
from broker.wire.replies import DrainBegun, HealthFound, ModelsFound, Refused
from broker.wire.requests import (
    CancelJob,
    DeleteJob,
    DrainServer,
    KeepJob,
    OfferJob,
    RemoveExpired,
    SubmitJob,
)

# A restarted broker numbers on from far above all that the last one may have published.
_RESTART_SEQ_GAP = 1_000_000


class Dispatcher:
    """Decides; others carry out.

    Commands are to be carried out in their order, and none that follows a `SaveJob` before that
    one is on disk. `now_s` never goes back.

    Args:
        policy: The limits.
        models: The profiles that the journal holds.
        restored: What the journal holds, the earliest submission first.
        now_s: The time of the start.
        kept: Which of the restored jobs are or were kept.
    """

    def __init__(
        self,
        policy: DispatchPolicy,
        restored: Iterable[Job] = (),
        now_s: float = 0.0,
        models: Iterable[ModelProfile] = (),
        kept: KeptMarks = NO_MARKS,
    ) -> None:
        catalogue = ModelCatalogue(models, policy.default_model)
        jobs = JobTable(policy.priority_step_s, policy.images_without_video)
        self._state = DispatchState(catalogue, jobs)
        self._models = ModelLifecycle(self._state, policy)
        self._intake = Intake(self._state, policy)
        self._attempts = AttemptLifecycle(self._state, policy)
        self._groups = GroupLifecycle(self._state, self._attempts, self._models, policy)
        self._preemption = Preemption(self._state)
        self._drain_reported = False
        self._latest_s = 0.0
        self._models.begin()
        for job in restored:
            self._restore(job, now_s, kept)
        jobs.images.take_unused()  # the janitor removes what no restored job uses

    def handle(self, event: Event, now_s: float, client: Client | None = None) -> list[Command]:
        """Return what follows from an event; each enters once, in the order of arrival.

        `client` is set for a front's request, and gets the reply.
        """
        self._state.awake.advance(now_s)
        self._take(event, now_s, client)
        if isinstance(event, OfferJob | SubmitJob):
            # Nothing else follows: no group gets a job before the journal has it.
            return self._state.take_commands()
        return self._settle(now_s)

    def _take(self, event: Event, now_s: float, client: Client | None) -> None:
        match event:
            case OfferJob() | SubmitJob() | CancelJob() | DeleteJob() | KeepJob() | RemoveExpired():
                assert client is not None, "a request without a client"
                self._intake.handle(event, client, now_s)
            case JobAdmitted() | JobRefused():
                self._intake.settle(event, now_s)
            case GroupStarted() | GroupReady() | GroupGone() | GroupLost() | DrainGroup():
                self._groups.handle(event, now_s)
                if isinstance(event, GroupReady):
                    self._intake.learn_shape(event, now_s)
            case (
                StepDone()
                | JobStarted()
                | JobDecoded()
                | JobDelayed()
                | JobFinished()
                | JobFailed()
                | JobStopped()
            ):
                self._attempts.handle(event, now_s)
                self._groups.report_drained(event.lease.group)
            case GroupsNamed():
                self._groups.drop_unknown_groups(event.groups, now_s)
            case WatchersChanged():
                self._state.watch(event.job_id, event.watched, now_s)
            case SpaceLow():
                self._intake.free_space(now_s)
            case DrainBroker() | DrainServer():
                self._drain(event, client)
            case _:
                assert_never(event)

    def _drain(self, event: DrainBroker | DrainServer, client: Client | None) -> None:
        self._state.draining = True
        if isinstance(event, DrainBroker):
            self._drain_reported = False
            return
        assert client is not None, "a request without a client"
        self._state.emit(StopLaunchers())
        self._state.emit(Reply(client, DrainBegun(running=self.health().running)))

    def on_heartbeat(self, heartbeat: Heartbeat, now_s: float) -> None:
        """Take a heartbeat; nothing follows from it before the next `tick`."""
        self._groups.on_heartbeat(heartbeat, now_s)

    def is_repeated(self, report: GroupStarted, now_s: float) -> bool:
        """Take a launcher's repeated report as a sign of life; False if it is new, for `handle`."""
        return self._groups.is_repeated(report, now_s)

    def tick(self, now_s: float) -> list[Command]:
        self._state.awake.advance(now_s)
        self._groups.kill_hung_groups(now_s)
        self._intake.remove_expired(now_s)
        self._intake.remove_surplus()
        self._models.forget_away()
        return self._settle(now_s)

    @property
    def has_arriving_jobs(self) -> bool:
        return self._intake.has_arriving_jobs

    def jobs(self) -> Iterable[Job]:
        """Return every job that has not expired, the earliest submission first."""
        return self._state.jobs

    def groups(self) -> Iterable[Group]:
        return self._state.groups

    def views(self, now_s: float) -> list[JobView]:
        """Return the view of every job, the earliest submission first."""
        return [self._state.view(job, now_s) for job in self._state.jobs]

    def job(self, job_id: str) -> Job | None:
        return self._state.jobs.get(job_id)

    def refusal(self, job_id: str, owner: str | None) -> Refused:
        """Return how a request about a job that is not here is answered."""
        return self._intake.gone.refusal(job_id, owner)

    def with_expiry(self, view: JobView) -> JobView:
        return self._intake.keeping.with_expiry(view)

    def eta_s(self, job_id: str, now_s: float) -> float | None:
        job = self._state.jobs.get(job_id)
        return None if job is None else self._state.eta_s(job, now_s)

    def queue_position(self, job_id: str) -> int | None:
        return self._state.position(job_id)

    def waiting_reason(self, job_id: str) -> str | None:
        job = self._state.jobs.get(job_id)
        return None if job is None else self._state.waiting_reason(job)

    def is_running(self, lease: Lease) -> bool:
        """Whether a lease is in force, and its job not cancelled."""
        job = self._state.jobs.get(lease.job_id)
        return (
            job is not None and job.lease == lease and self._state.find_attempt(lease) is not None
        )

    def uses_image(self, image: str) -> bool:
        """Whether a job needs an image, also one that is not in the journal yet."""
        return self._intake.uses_image(image)

    def health(self) -> HealthFound:
        return self._state.health()

    def models(self) -> ModelsFound:
        return self._state.models_found()

    def _settle(self, now_s: float) -> list[Command]:
        if not self._state.draining:
            self._give_jobs(now_s)
            self._preemption.preempt()
        self._state.publish_places(now_s)
        self._report_drained()
        return self._state.take_commands()

    def _give_jobs(self, now_s: float) -> None:
        queue = self._state.jobs.queue
        queue.wake(now_s)
        while len(queue):
            pairs = ((queue.first_for(shape), group) for shape, group in self._state.groups.free())
            found = [(job, group) for job, group in pairs if job is not None]
            if not found:
                return
            self._give_job(*min(found, key=lambda pair: queue.sort_key(pair[0])), now_s)

    def _give_job(self, job: Job, group: Group, now_s: float) -> None:
        lease = Lease(
            group=group.name, epoch=group.epoch, job_id=job.job_id, attempt=job.attempt + 1
        )
        attempt = self._state.new_attempt(job, lease, now_s)
        attempt.expect_start(self._state.awake.now_s)
        group.attempts[job.job_id] = attempt
        self._state.groups.reindex(group.name)
        assert group.shape is not None, "a free group without a shape"
        self._state.save(job.leased(lease, group.shape.model.content_hash, now_s), now_s)
        run = RunJob(
            lease=lease,
            spec=job.spec,
            image=job.image,
            last_image=job.last_image,
            lora_hashes=job.lora_hashes,
        )
        self._state.emit(ToGroup(group.name, run))

    def _report_drained(self) -> None:
        if not self._state.draining or self._drain_reported:
            return
        if self._state.groups.runs_nothing:
            self._drain_reported = True
            self._state.emit(ReportDrained())

    def _restore(self, job: Job, now_s: float, kept: KeptMarks) -> None:
        # The clock may have been set back since: nothing is younger than now.
        job = msgspec.structs.replace(
            job, created_at=min(job.created_at, now_s), updated_at=min(job.updated_at, now_s)
        )
        if job.state.is_terminal:
            self._intake.restore_ended(job, now_s, kept)
            return
        # Nor is a job older than one submitted before it, since the order follows that time.
        self._latest_s = max(self._latest_s, job.created_at)
        job = msgspec.structs.replace(
            job, created_at=self._latest_s, seq=job.seq + _RESTART_SEQ_GAP
        )
        if (resolved := self._state.with_model(job)) != job:
            # It is from a version without models, or from before any model was known.
            job = resolved
            self._state.emit(SaveJob(job))
        self._state.jobs.put(job)
        if job.lease is not None:
            self._groups.adopt(job, job.lease, now_s)
