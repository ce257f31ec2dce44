"""What must hold of a dispatcher after every event."""

from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.groups import Group
from broker.dispatch.job_record import Job
from broker.wire.job import JobState, can_run


def check(dispatcher: Dispatcher, now_s: float) -> None:
    """Raise `AssertionError` if the dispatcher contradicts itself."""
    jobs = {job.job_id: job for job in dispatcher.jobs()}
    runs = {
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
            assert runs[job.job_id][1].lease == job.lease, "a lease without a run"
    for job_id, (group, run) in runs.items():
        assert not group.gone, "a run on a group of which nothing is left"
        assert run.lease.job_id == job_id
        assert (run.lease.group, run.lease.epoch) == (group.name, group.epoch)
        live = jobs.get(job_id)
        if live is None or live.lease != run.lease:
            assert run.cancelled or not run.started, "a run that nobody wants is not being left"
    health = dispatcher.health()
    waiting = [job for job in jobs.values() if job.state is JobState.IN_QUEUE]
    assert health.queued == len(waiting)
    _check_preemption(dispatcher, waiting, now_s)
    free = [group for group in dispatcher.groups() if group.is_free]
    indexed = dispatcher._state.groups._free_shapes.keys()
    assert indexed == {group.name for group in free}, "not indexed as free"
    if free and not health.draining:
        due = [job for job in waiting if job.due_at <= now_s]
        assert not any(can_run_on(group, job) for group in free for job in due), "idle hands"


def _check_preemption(dispatcher: Dispatcher, waiting: list[Job], now_s: float) -> None:
    """Nobody waits for a run that could leave, and no more runs leave than somebody waits for."""
    if dispatcher.health().draining:
        return
    groups = [(group, group.sole_attempt) for group in dispatcher.groups()]
    yielding = [group for group, run in groups if run is not None and run.has_to_leave]
    place = dispatcher._state.jobs.queue.sort_key
    line = sorted((job for job in waiting if job.due_at <= now_s), key=place)
    for group, run in groups:
        if run is None or not run.can_leave:
            continue
        fitting = [job for job in line if can_run_on(group, job)]
        for job in fitting[len(yielding) : len(yielding) + 1]:
            is_more_urgent = job.priority > run.priority and place(job) < run.sort_key
            assert not is_more_urgent, "an urgent job waits for a run that could leave"


def can_run_on(group: Group, job: Job) -> bool:
    return group.shape is not None and can_run(job.spec, group.shape)
