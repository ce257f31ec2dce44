"""Random histories: the guarantees hold for any events in any order."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.dispatch.commands import Event
from broker.wire.errors import ErrorCode
from broker.wire.group_reports import (
    DrainBroker,
    GroupGone,
    GroupReady,
    GroupStarted,
    JobDecoded,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.job import JobSpec, JobState, Stage
from broker.wire.job_view import Lease
from broker.wire.requests import DeleteJob
from tests.broker.dispatch.durable_scene import SHAPES, DurableScene
from tests.broker.driver import SPEC

NUM_HISTORIES = 500
NUM_STEPS = 50
# Every commit is a sync, which costs nothing in memory.
FAST_DIR = Path("/dev/shm")
MOSTLY_TRUE = st.sampled_from((True, True, True, True, False))
PRIORITIES = st.sampled_from((0, 0, 0, 1, 2, -1))
MOSTLY_ALL = st.sampled_from(("abc", "abc", "abc", "a", "b", "c", ""))
FIRST, SECOND = SHAPES
SHAPE_OF = {"a": FIRST, "b": FIRST, "c": SECOND}
NAMES = st.sampled_from("abc")
SPECS = st.sampled_from(
    [msgspec.structs.replace(SPEC, model=model) for model in (None, "first", "second", "second")]
)


def lease_from(leases: str) -> st.SearchStrategy[Lease]:
    """Choose from the machine's list of this name."""
    return st.runner().flatmap(lambda machine: st.sampled_from(getattr(machine, leases)))


def has_held(machine: "Histories") -> bool:
    return bool(machine.held)


class Histories(RuleBasedStateMachine):
    """Groups that die, hang and repeat old reports, and a broker that is restarted now and then.

    `held` are the leases that the current lives of groups work on, `past` those they worked on
    before. `serving` are the groups that are alive and not about to stop.
    """

    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory(dir=FAST_DIR if FAST_DIR.is_dir() else None)
        self.scene = DurableScene(Path(self._folder.name) / "jobs.sqlite3")
        self.held: list[Lease] = []
        self.past: list[Lease] = []
        self.serving: set[str] = set()
        self.leaving: list[Lease] = []
        """The leases of `held` that groups were asked to leave for more urgent jobs."""
        self._epochs = dict.fromkeys(SHAPE_OF, 0)
        self._ends: dict[str, JobState] = {}

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.scene.close()
            self._folder.cleanup()

    def finish(self) -> None:
        """Stop all faults and check that every job ends."""
        for name in self._epochs:
            self.end_life(name, starts_again=True)
            self.deliver_and_check()
        self.scene.wait_out_retry_pause()
        self.deliver_and_check()
        while self.held:
            lease = self._leave(self.held[0])
            self.scene.handle(JobStarted(lease=lease))
            self.scene.finish(lease)
            self.deliver_and_check()
        self.scene = self.scene.next_life()
        states = {job.state for job in self.scene.dispatcher.jobs()}
        assert all(state.is_terminal for state in states), states

    @invariant()
    def deliver_and_check(self) -> None:
        """Deliver the commands to groups, and check what must never change."""
        for job in self.scene.journal.values():
            if job.state.is_terminal:
                assert self._ends.setdefault(job.job_id, job.state) is job.state
        for run in self.scene.sent:
            lease = run.lease
            assert lease.group in self.serving, "a job for a group that does not serve"
            assert lease.epoch == self._epochs[lease.group], "a job for a life that is over"
            assert lease.job_id not in {held.job_id for held in self.held}, "two attempts at once"
            assert lease not in self.past, "a lease that was in force before"
            model = SHAPE_OF[lease.group].model.name
            assert run.spec.model == model, "a job on a group with another model"
            self.held.append(lease)
        self.scene.sent.clear()
        self.leaving += self.scene.asked_to_leave
        self.leaving = [lease for lease in self.leaving if lease in self.held]
        self.scene.asked_to_leave.clear()

    # --- clients, and time -----------------------------------------------------------------------

    @initialize()
    def have_groups(self) -> None:
        for name in self._epochs:
            self._new_life(name)

    @initialize(target=jobs)
    def have_jobs(self) -> MultipleResults[str]:
        return multiple(*(self.scene.job() for _ in range(5)))

    @rule(
        target=jobs,
        has_room=st.lists(MOSTLY_TRUE, min_size=1, max_size=3),
        spec=SPECS,
        priority=PRIORITIES,
    )
    def submit(self, has_room: list[bool], spec: JobSpec, priority: int) -> MultipleResults[str]:
        """Submit jobs, some of them while the disk is full."""
        submit = self.scene.submit
        return multiple(*(submit(spec, room, priority)[0] for room in has_room))

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        self.scene.cancel(job_id)

    @rule(job_id=jobs)
    def delete(self, job_id: str) -> None:
        self.scene.handle(DeleteJob(job_id=job_id))

    @rule(seconds=st.sampled_from((1, 3, 7, 40)), heartbeats_of=MOSTLY_ALL)
    def pass_time(self, seconds: int, heartbeats_of: str) -> None:
        for _ in range(seconds):
            self.scene.now_s += 1.0
            for name in self._serving_among(heartbeats_of):
                self.scene.heartbeat(name, self._epochs[name], ranks=range(FIRST.world_size))
            self.scene.tick()

    @rule()
    def move_between_ticks(self) -> None:
        self.scene.now_s += 0.5

    # --- groups ----------------------------------------------------------------------------------

    @rule(name=NAMES)
    def start_life(self, name: str) -> None:
        """Start a group once nothing of its last life is left."""
        if all(lease.group != name for lease in self.held):
            self._new_life(name)

    @rule(name=NAMES, starts_again=MOSTLY_TRUE)
    def end_life(self, name: str, starts_again: bool) -> None:
        for lease in [lease for lease in self.held if lease.group == name]:
            self._leave(lease)
        self.serving.discard(name)
        self.scene.handle(GroupGone(group=name, epoch=self._epochs[name], reason="tested"))
        if starts_again:
            self._new_life(name)

    @rule(names=MOSTLY_ALL)
    def register_again(self, names: str) -> None:
        for name in self._serving_among(names):
            self._register(name)

    @rule(back=MOSTLY_ALL)
    def restart_broker(self, back: str) -> None:
        """Restart the broker alone; some of the living groups register again."""
        self.scene = self.scene.next_life()
        self.register_again(back)

    # --- attempts --------------------------------------------------------------------------------

    @precondition(has_held)
    @rule(lease=lease_from("held"))
    def start_attempt(self, lease: Lease) -> None:
        self.scene.handle(JobStarted(lease=lease))

    @precondition(has_held)
    @rule(lease=lease_from("held"), step=st.integers(1, 20))
    def report_step(self, lease: Lease, step: int) -> None:
        self.scene.step(lease, Stage.DENOISE, step, 20)

    @precondition(has_held)
    @rule(lease=lease_from("held"))
    def report_decoded(self, lease: Lease) -> None:
        self.scene.handle(JobDecoded(lease=lease))

    @precondition(has_held)
    @rule(lease=lease_from("held"))
    def finish_attempt(self, lease: Lease) -> None:
        self.scene.handle(JobFinished(lease=self._leave(lease), video="x.mp4"))

    @precondition(has_held)
    @rule(lease=lease_from("held"))
    def fail_attempt(self, lease: Lease) -> None:
        failed = JobFailed(lease=self._leave(lease), code=ErrorCode.RUN_FAILED, reason="")
        self.scene.handle(failed)

    @precondition(has_held)
    @rule(lease=lease_from("held"))
    def stop_attempt(self, lease: Lease) -> None:
        """Leave an attempt because it was cancelled or because the group is about to stop."""
        job = self.scene.journal.get(lease.job_id)
        if job is not None and job.lease == lease:
            self.serving.discard(lease.group)
        self.scene.handle(JobStopped(lease=self._leave(lease)))

    @precondition(lambda self: self.leaving)
    @rule(lease=lease_from("leaving"))
    def leave_preempted_attempt(self, lease: Lease) -> None:
        self.scene.handle(JobStopped(lease=self._leave(lease), preempted=True))

    @precondition(lambda self: self.past)
    @rule(lease=lease_from("past"))
    def repeat_old_reports(self, lease: Lease) -> None:
        """Send reports about a lease that is over; they must change nothing."""
        self.scene.tick()
        before = dict(self.scene.journal)
        reports: tuple[Event, ...] = (
            JobFinished(lease=lease, video="forged.mp4"),
            JobFailed(lease=lease, code=ErrorCode.RUN_FAILED, reason="forged"),
            JobStopped(lease=lease),
            JobStopped(lease=lease, preempted=True),
            GroupGone(group=lease.group, epoch=lease.epoch - 1, reason="forged"),
        )
        for report in reports:
            self.scene.handle(report)
        assert self.scene.journal == before, "an old report was believed"

    # --- helpers ---------------------------------------------------------------------------------

    def _serving_among(self, names: str) -> list[str]:
        return [name for name in names if name in self.serving]

    def _new_life(self, name: str) -> None:
        self._epochs[name] += 1
        self.serving.add(name)
        self._register(name)

    def _register(self, name: str) -> None:
        epoch, shape = self._epochs[name], SHAPE_OF[name]
        running = [lease for lease in self.held if lease.group == name]
        self.scene.handle(GroupStarted(group=name, epoch=epoch, world_size=shape.world_size))
        self.scene.handle(
            GroupReady(group=name, epoch=epoch, shape=shape, device="test", running=running)
        )

    def _leave(self, lease: Lease) -> Lease:
        self.held.remove(lease)
        self.leaving = [other for other in self.leaving if other != lease]
        self.past.append(lease)
        return lease


class DrainedHistories(Histories):
    """Histories that end with a drained broker and the planned end of all groups."""

    def finish(self) -> None:
        self.scene.handle(DrainBroker())
        for name, epoch in self._epochs.items():
            self.scene.lose_group(name, epoch)
        self.scene = self.scene.next_life()
        states = {job.state for job in self.scene.dispatcher.jobs()}
        assert JobState.IN_PROGRESS not in states


def machine_settings(num_histories: int, num_steps: int) -> settings:
    return settings(
        max_examples=num_histories,
        stateful_step_count=num_steps,
        derandomize=True,
        deadline=None,
        database=None,
    )


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Drop the log lines of a million events."""
    with caplog.at_level(logging.CRITICAL, "broker"):
        yield


def test_random_histories_keep_every_guarantee() -> None:
    run_state_machine_as_test(Histories, settings=machine_settings(NUM_HISTORIES, NUM_STEPS))


def test_a_drained_broker_leaves_only_waiting_and_finished_jobs() -> None:
    run_state_machine_as_test(DrainedHistories, settings=machine_settings(NUM_HISTORIES // 10, 20))
