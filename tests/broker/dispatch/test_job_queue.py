"""The job queue against a sorted list, under random additions, removals, pauses and shapes."""

from random import Random

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from broker.dispatch.job_queue import JobQueue
from broker.dispatch.job_record import Job
from broker.wire.group_shape import GroupShape, can_run
from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from tests.broker.dispatch.test_histories import machine_settings
from tests.broker.driver import IMAGE, SPEC

MODELS = ("one", "two")
SHAPES = [
    GroupShape(world_size=size, num_heads=8, model=ModelProfile(name=name))
    for name in MODELS
    for size in (1, 2, 8)
]
SPECS = [
    msgspec.structs.replace(SPEC, model=name, ulysses_size=size)
    for name in MODELS
    for size in (None, 1, 2, 8, 3)
]
STEP_S = 10.0


class QueueMachine(RuleBasedStateMachine):
    """Jobs of all kinds, queued before and after the shapes of groups are known."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.jobs: dict[str, Job] = {}
        self.queue = JobQueue(self.jobs, STEP_S)
        self.waiting: list[Job] = []

    @rule(spec=st.sampled_from(SPECS), priority=st.integers(-2, 2), pause_s=st.sampled_from((0, 7)))
    def add(self, spec: JobSpec, priority: int, pause_s: int) -> None:
        number = len(self.jobs) + 1
        job = Job(
            number=number, job_id=str(number), spec=spec, image=IMAGE, priority=priority,
            created_at=self.now_s, updated_at=self.now_s, due_at=self.now_s + pause_s,
        )  # fmt: skip
        self.jobs[job.job_id] = job
        self.queue.add(job, self.now_s)
        self.waiting.append(job)

    @rule(choose=st.randoms(use_true_random=False))
    def remove(self, choose: Random) -> None:
        if self.waiting:
            job = choose.choice(self.waiting)
            self.queue.remove(job)
            self.waiting.remove(job)

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds
        self.queue.wake(self.now_s)

    @rule(shape=st.sampled_from(SHAPES))
    def learn(self, shape: GroupShape) -> None:
        self.queue.learn(shape)

    @invariant()
    def compare(self) -> None:
        expected = sorted(self.waiting, key=self.queue.sort_key)
        assert list(self.queue) == expected
        assert [self.queue.position(job) for job in expected] == [*range(1, len(expected) + 1)]
        priorities = [job.priority for job in expected]
        assert self.queue.highest_priority == max(priorities, default=None)
        known = self.queue.shapes
        for shape in known:
            fitting = [job for job in expected if can_run(job.spec, shape)]
            due = [job.job_id for job in fitting if job.due_at <= self.now_s]
            assert list(self.queue.due_for(shape)) == due
        for model in MODELS:
            of_model = [job for job in expected if job.spec.model == model]
            assert list(self.queue.of_model(model)) == of_model
            assert [self.queue.num_ahead(job) for job in of_model] == [*range(len(of_model))]
            unfit = [job for job in of_model if not any(can_run(job.spec, s) for s in known)]
            assert sorted(self.queue.unfit(model), key=self.queue.sort_key) == unfit


def test_the_queue_of_each_shape_holds_the_due_jobs_that_it_can_run() -> None:
    run_state_machine_as_test(QueueMachine, settings=machine_settings(200, 40))
