"""Which images jobs use, and which of them no job uses any more."""

from collections import Counter

from broker.dispatch.job_record import Job
from broker.wire.job import JobState


class UsedImages:
    """Counts the jobs that use an image.

    A job uses its images as long as it is known. Of those that ended without a video only the
    latest do, so that a loop of submit and cancel does not fill the disk.

    Args:
        max_without_video: How many of an owner's failed and cancelled jobs keep their images.
    """

    def __init__(self, max_without_video: int) -> None:
        self._max_without_video = max_without_video
        self._num_jobs: Counter[str] = Counter()
        self._without_video: dict[str | None, dict[str, Job]] = {}
        """By owner and id, the earliest end first."""
        self._released: set[str] = set()

    def __contains__(self, image: str) -> bool:
        return image in self._num_jobs

    def add(self, job: Job) -> None:
        for image in job.images:
            self._num_jobs[image] += 1

    def end_without_video(self, job: Job) -> None:
        ended = self._without_video.setdefault(job.owner, {})
        ended[job.job_id] = job
        if len(ended) > self._max_without_video:
            self.remove(next(iter(ended.values())))

    def remove(self, job: Job) -> None:
        if _ended_without_video(job) and not self._forget(job):
            return
        for image in job.images:
            self._num_jobs[image] -= 1
            if not self._num_jobs[image]:
                del self._num_jobs[image]
                self._released.add(image)

    def remove_all_without_video(self) -> bool:
        """Remove the images that only another attempt would need; return whether there are any."""
        jobs = [job for ended in self._without_video.values() for job in ended.values()]
        for job in jobs:
            self.remove(job)
        return bool(jobs)

    def take_unused(self) -> list[str]:
        """Return the images that no job uses any more, each once."""
        if not self._released:
            return []
        released, self._released = self._released, set()
        return sorted(image for image in released if image not in self)

    def _forget(self, job: Job) -> bool:
        ended = self._without_video.get(job.owner, {})
        is_known = ended.pop(job.job_id, None) is not None
        if is_known and not ended:
            del self._without_video[job.owner]
        return is_known


def _ended_without_video(job: Job) -> bool:
    return job.state in (JobState.FAILED, JobState.CANCELLED)
