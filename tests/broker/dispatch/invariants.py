"""What holds for a dispatcher after every event."""

from collections import Counter

from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.groups import Group
from broker.dispatch.job_record import Job
from broker.wire.group_shape import can_run
from broker.wire.job import JobState


def check(dispatcher: Dispatcher, now_s: float) -> None:
    """Raise `AssertionError` if the dispatcher contradicts itself."""
    jobs = {job.job_id: job for job in dispatcher.jobs()}
    attempts = {
        job_id: (group, attempt)
        for group in dispatcher.groups()
        for job_id, attempt in group.attempts.items()
    }
    for job in jobs.values():
        assert (job.lease is not None) == (job.state is JobState.IN_PROGRESS)
        assert 0.0 <= job.progress <= 1.0
        assert 0 <= job.num_lost <= 3
        assert job.num_lost <= job.attempt
        if job.lease is not None:
            assert job.lease.attempt == job.attempt
            assert attempts[job.job_id][1].lease == job.lease, "a lease without an attempt"
    for job_id, (group, attempt) in attempts.items():
        assert not group.gone, "an attempt on a group without processes"
        assert attempt.lease.job_id == job_id
        assert (attempt.lease.group, attempt.lease.epoch) == (group.name, group.epoch)
        current = jobs.get(job_id)
        if current is None or current.lease != attempt.lease:
            assert attempt.cancelled or not attempt.started, "an unwanted attempt is not cancelled"
    table = dispatcher._state.jobs
    users = [job for job in jobs.values() if _uses_images(dispatcher, job)]
    images = Counter(image for job in users for image in job.images)
    assert table.images._num_jobs == images, "an image is counted that no job needs"
    assert not table.images.take_unused(), "an unused image is left"
    assert len(table.retention) == sum(job.state.is_terminal for job in jobs.values())
    health = dispatcher.health()
    waiting = [job for job in jobs.values() if job.state is JobState.IN_QUEUE]
    assert health.queued == len(waiting)
    _check_preemption(dispatcher, waiting, now_s)
    free = [group for group in dispatcher.groups() if group.is_free]
    indexed = dispatcher._state.groups._free_shapes.keys()
    assert indexed == {group.name for group in free}, "the index of free groups is out of date"
    if free and not health.draining:
        due = [job for job in waiting if job.due_at <= now_s]
        assert not any(can_run_on(group, job) for group in free for job in due), "a group idles"


def _uses_images(dispatcher: Dispatcher, job: Job) -> bool:
    without_video = dispatcher._state.jobs.images._without_video
    is_without = job.state in (JobState.FAILED, JobState.CANCELLED)
    return not is_without or job.job_id in without_video.get(job.owner, ())


def _check_preemption(dispatcher: Dispatcher, waiting: list[Job], now_s: float) -> None:
    """Check that no urgent job waits for an attempt that could leave but was not asked to."""
    if dispatcher.health().draining:
        return
    groups = [(group, group.sole_attempt) for group in dispatcher.groups()]
    num_leaving = sum(attempt is not None and attempt.has_to_leave for _, attempt in groups)
    sort_key = dispatcher._state.jobs.queue.sort_key
    due = sorted((job for job in waiting if job.due_at <= now_s), key=sort_key)
    for group, attempt in groups:
        if attempt is None or not attempt.can_leave:
            continue
        fitting = [job for job in due if can_run_on(group, job)]
        # The attempts that leave already serve the first jobs.
        for job in fitting[num_leaving : num_leaving + 1]:
            is_more_urgent = job.priority > attempt.priority and sort_key(job) < attempt.sort_key
            assert not is_more_urgent, "an urgent job waits for an attempt that could leave"


def can_run_on(group: Group, job: Job) -> bool:
    return group.shape is not None and can_run(job.spec, group.shape)
