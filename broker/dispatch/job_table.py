"""Every job the broker holds, the queue of those that wait, and the ended ones."""

from collections.abc import Iterator
from itertools import islice

from broker.dispatch.job_queue import JobQueue
from broker.dispatch.job_record import Job
from broker.dispatch.retention import Retention
from broker.dispatch.used_images import UsedImages
from broker.wire.job import JobState


class JobTable:
    """The jobs by id, and the queue of those that wait.

    Args:
        priority_step_s: How many seconds of waiting one level of priority is worth.
        images_without_video: How many of an owner's failed and cancelled jobs keep their images.
    """

    def __init__(self, priority_step_s: float, images_without_video: int) -> None:
        self._jobs: dict[str, Job] = {}
        self.queue = JobQueue(self._jobs, priority_step_s)
        self.retention = Retention()
        self._without_video: dict[str | None, dict[str, None]] = {}
        """Ended jobs of each owner that have no video, the earliest end first."""
        self.images = UsedImages(images_without_video)
        self._keys: dict[tuple[str | None, str], str] = {}
        self._last_number = 0

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def of_key(self, owner: str | None, key: str) -> Job | None:
        job_id = self._keys.get((owner, key))
        return None if job_id is None else self._jobs[job_id]

    def __iter__(self) -> Iterator[Job]:
        """Yield every job in the order of submission."""
        return iter(self._jobs.values())

    def take_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def put(self, job: Job, ended_s: float | None = None) -> None:
        """Take a new job, or a new version of a known one.

        `ended_s` is when an ended job ended; None stands for the time of its last change.
        """
        before = self._jobs.get(job.job_id)
        self._jobs[job.job_id] = job
        self._last_number = max(self._last_number, job.number)
        if before is None:
            self.images.add(job)
            if job.idempotency_key is not None:
                self._keys[job.owner, job.idempotency_key.key] = job.job_id
        elif _is_elsewhere(before, job):
            self._leave(before)
        else:
            return
        self._enter(job, job.updated_at if ended_s is None else ended_s)

    def position(self, job: Job) -> int | None:
        return self.queue.position(job) if job.state is JobState.IN_QUEUE else None

    def expired(self, ended_before_s: float) -> list[Job]:
        """Return the jobs that ended so early, the earliest first."""
        return [self._jobs[job_id] for job_id in self.retention.aged(ended_before_s)]

    def oldest_videos(self, ended_before_s: float, number: int) -> list[Job]:
        """Return the earliest jobs with a video that ended so early and are not kept."""
        aged = map(self._jobs.__getitem__, self.retention.aged(ended_before_s))
        return list(islice((job for job in aged if job.video is not None), number))

    def surplus(self, max_without_video: int) -> list[Job]:
        """Return the earliest of an owner's ended jobs without a video that are above a limit."""
        return [
            self._jobs[job_id]
            for ended in self._without_video.values()
            for job_id in islice(ended, max(0, len(ended) - max_without_video))
        ]

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended."""
        job = self._jobs.pop(job_id)
        self._leave(job)
        self.images.remove(job)
        if job.idempotency_key is not None:
            del self._keys[job.owner, job.idempotency_key.key]

    def _leave(self, job: Job) -> None:
        if job.state is JobState.IN_QUEUE:
            self.queue.remove(job)
        elif job.state.is_terminal:
            self.retention.remove(job)
            if job.state is not JobState.SUCCEED:
                self._leave_owner(job)

    def _leave_owner(self, job: Job) -> None:
        ended = self._without_video[job.owner]
        del ended[job.job_id]
        if not ended:
            del self._without_video[job.owner]

    def _enter(self, job: Job, ended_s: float) -> None:
        if job.state is JobState.IN_QUEUE:
            self.queue.add(job, job.updated_at)
        elif job.state.is_terminal:
            self.retention.add(job, ended_s)
            if job.state is not JobState.SUCCEED:
                self._without_video.setdefault(job.owner, {})[job.job_id] = None
                self.images.end_without_video(job)


def _is_elsewhere(before: Job, job: Job) -> bool:
    """Whether two versions of a job are indexed in different places."""
    has_other_model = before.spec.model != job.spec.model
    return before.state is not job.state or (job.state is JobState.IN_QUEUE and has_other_model)
