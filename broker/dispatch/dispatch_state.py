"""The dispatcher's picture of the world: jobs, groups, pace; and the commands it collects."""

import heapq
from collections import defaultdict
from itertools import islice

from msgspec import structs

from broker.dispatch.commands import Command, DropInput, Publish, SaveJob
from broker.dispatch.group_table import GroupTable
from broker.dispatch.groups import Attempt, Group
from broker.dispatch.job_record import Job
from broker.dispatch.job_table import JobTable
from broker.dispatch.liveness import AwakeClock
from broker.dispatch.model_catalogue import ModelCatalogue
from broker.dispatch.pace import Pace, StageProgress, typical_work, work_of
from broker.wire.job import JobState, Stage
from broker.wire.job_view import JobView, Lease
from broker.wire.replies import HealthFound, ModelsFound, ModelView

# Of the jobs ahead of a waiting one, so many are planned one by one; those between count by the
# average, so that an estimate costs the same at any position.
_NUM_PLANNED = 16
# So many groups stand for all, with their share of the queue, so that an estimate costs the same
# with any number of groups.
_NUM_ASKED = 16


class DispatchState:
    """What is known now. Every change of a job goes through it, so that each one is published.

    Args:
        models: Those known before any group reports.
        jobs: Still empty.
    """

    def __init__(self, models: ModelCatalogue, jobs: JobTable) -> None:
        self.models = models
        self.jobs = jobs
        self.groups = GroupTable()
        self._paces: dict[str | None, Pace] = defaultdict(Pace)
        """By model."""
        self.awake = AwakeClock()
        self.draining = False
        self._watched: set[str] = set()
        self._waiting_views: dict[str, JobView] = {}
        """As last published; the history holds the same objects."""
        self._published_moves = (0, 0)
        self._commands: list[Command] = []

    def emit(self, command: Command) -> None:
        self._commands.append(command)

    def take_commands(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    def save(self, job: Job, now_s: float) -> None:
        job = self.with_model(job)
        self.jobs.put(job)
        self.emit(SaveJob(job))
        self._publish(job, now_s)
        self.drop_unused_images()

    def drop_unused_images(self) -> None:
        for image in self.jobs.images.take_unused():
            self.emit(DropInput(image))

    def with_model(self, job: Job) -> Job:
        """Return a job with the name of its model, once that is known."""
        spec = self.models.resolve(job.spec)
        return job if spec is job.spec else structs.replace(job, spec=spec)

    def publish(self, job: Job, now_s: float) -> JobView:
        """Take a new version of a job that the journal need not hold."""
        self.jobs.put(job)
        return self._publish(job, now_s)

    def _publish(self, job: Job, now_s: float) -> JobView:
        view = self.view(job, now_s)
        if view.queue_position is None:
            self._waiting_views.pop(job.job_id, None)
        else:
            self._waiting_views[job.job_id] = view
        self.emit(Publish(view))
        return view

    def watch(self, job_id: str, watched: bool, now_s: float) -> None:
        if watched:
            self._watched.add(job_id)
            self._publish_place(job_id, now_s)
        else:
            self._watched.discard(job_id)

    def publish_places(self, now_s: float) -> None:
        """Publish watched jobs whose queue position changed, or what they wait for."""
        moves = (self.jobs.queue.num_moves, self.groups.num_model_moves)
        if moves != self._published_moves:
            self._published_moves = moves
            # Only watched jobs, so that a move costs the same however many jobs wait.
            for job_id in list(self._watched):
                self._publish_place(job_id, now_s)

    def position(self, job_id: str) -> int | None:
        job = self.jobs.get(job_id)
        return None if job is None else self.jobs.position(job)

    def view(self, job: Job, now_s: float) -> JobView:
        view = job.view(self.jobs.position(job), self.eta_s(job, now_s))
        reason = self.waiting_reason(job)
        return view if reason is None else structs.replace(view, reason=reason)

    def waiting_reason(self, job: Job) -> str | None:
        """Return what a job waits for besides its turn."""
        model = job.spec.model
        if job.state is not JobState.IN_QUEUE or model is None or self.groups.num_ready(model):
            return None
        return f"waits for a group with model {model}"

    def eta_s(self, job: Job, now_s: float) -> float | None:
        if job.state is JobState.IN_QUEUE:
            return self._waiting_eta_s(job, now_s)
        attempt = None if job.lease is None else self.find_attempt(job.lease)
        return None if attempt is None else self._remaining_s(job, attempt, now_s)

    def new_attempt(self, job: Job, lease: Lease, now_s: float) -> Attempt:
        progress = StageProgress(now_s, Stage.ENCODE)
        sort_key = self.jobs.queue.sort_key(job)
        return Attempt(lease, progress, priority=job.priority, sort_key=sort_key)

    def find_attempt(self, lease: Lease) -> Attempt | None:
        group = self.groups.get(lease.group)
        return None if group is None else group.find(lease)

    def next_end_s(self, now_s: float) -> float | None:
        return min(self._busy_s(now_s), default=None)

    def pace_of(self, job: Job) -> Pace:
        return self._paces[job.spec.model]

    def models_found(self) -> ModelsFound:
        models = [
            ModelView(
                profile=profile,
                num_ready_groups=self.groups.num_ready(profile.name),
                num_waiting_jobs=self.jobs.queue.num_of_model(profile.name),
                typical_stage_s=self._paces[profile.name].stages_s(typical_work(profile)),
            )
            for profile in self.models
        ]
        return ModelsFound(models=models, default=self.models.default)

    def health(self) -> HealthFound:
        groups = [group.view(self.awake.now_s) for group in self.groups]
        running = [self.jobs.get(job_id) for group in self.groups for job_id in group.attempts]
        return HealthFound(
            ready=not self.draining and any(group.ready for group in groups),
            draining=self.draining,
            queued=len(self.jobs.queue),
            running=len(running),
            groups=groups,
            stopping=sum(job is None or job.state.is_terminal for job in running),
        )

    def _publish_place(self, job_id: str, now_s: float) -> None:
        job = self.jobs.get(job_id)
        if job is None:
            self._watched.discard(job_id)
        elif self._has_moved(job):
            self.publish(job.changed(now_s), now_s)

    def _has_moved(self, job: Job) -> bool:
        """Whether a job has another position than was published, or waits for something else."""
        position, published = self.jobs.position(job), self._waiting_views.get(job.job_id)
        if published is None:
            return position is not None
        was = (published.queue_position, published.reason)
        return was != (position, self.waiting_reason(job))

    def _remaining_s(self, job: Job, attempt: Attempt, now_s: float) -> float | None:
        pace = self.pace_of(job)
        return pace.remaining_s(job.spec, attempt.progress, now_s, job.skipped_steps)

    def _waiting_eta_s(self, job: Job, now_s: float) -> float | None:
        model, pace, queue = job.spec.model, self.pace_of(job), self.jobs.queue
        own_s = pace.attempt_s(work_of(job.spec))
        if model is None or own_s is None or not self.groups.num_ready(model):
            return None
        free_s = self._busy_s(now_s, model)
        heapq.heapify(free_s)
        num_ahead = queue.num_ahead(job) * len(free_s) // self.groups.num_ready(model)
        for ahead in islice(queue.of_model(model), min(num_ahead, _NUM_PLANNED)):
            ahead_s = pace.attempt_s(work_of(ahead.spec)) or 0.0
            heapq.heapreplace(free_s, free_s[0] + ahead_s)
        if num_ahead <= _NUM_PLANNED:
            return max(free_s[0], job.due_at - now_s) + own_s
        average_s = (pace.attempt_s(queue.work_of(model)) or 0.0) / queue.num_of_model(model)
        between_s = (num_ahead - _NUM_PLANNED) * average_s
        return (sum(free_s) + between_s) / len(free_s) + own_s

    def _busy_s(self, now_s: float, model: str | None = None) -> list[float]:
        asked = self.groups.some_ready(_NUM_ASKED, model)
        return [self._group_busy_s(group, now_s) for group in asked]

    def _group_busy_s(self, group: Group, now_s: float) -> float:
        attempt = group.computing
        job = None if attempt is None else self.jobs.get(attempt.lease.job_id)
        if attempt is None or job is None or job.state.is_terminal:
            return 0.0
        return self._remaining_s(job, attempt, now_s) or 0.0
