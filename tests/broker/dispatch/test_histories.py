"""Random histories: whatever happens in whatever order, the promises hold.

Seen to fail with reports taken whose lease is not in force ("a lie was believed"), with finished
jobs that can be cancelled (refused by the journal's own trigger), and with the jobs of a group that
hangs given on before it is reaped ("two attempts at once"), with an attempt's number given anew
after a run was left as planned ("a lease that was in force before"), and with runs not sent away
("an urgent job waits for a run that could leave").
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

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
from broker.wire.job import JobState, Stage
from broker.wire.job_view import Lease
from broker.wire.requests import DeleteJob
from tests.broker.dispatch.durable_scene import SMALL, DurableScene

NUM_HISTORIES = 500
NUM_STEPS = 50
# Every commit is a sync, which costs nothing in memory.
FAST_DIR = Path("/dev/shm")
RARELY_NOT = st.sampled_from((True, True, True, True, False))
PRIORITIES = st.sampled_from((0, 0, 0, 1, 2, -1))
MOSTLY_ALL = st.sampled_from(("ab", "ab", "ab", "a", "b", ""))


def one_of(leases: str) -> st.SearchStrategy[Lease]:
    """Choose from what the machine has under this name."""
    return st.runner().flatmap(lambda machine: st.sampled_from(getattr(machine, leases)))


def some_work(machine: "Histories") -> bool:
    return bool(machine.held)


class Histories(RuleBasedStateMachine):
    """Groups that die, lie and linger, around a broker that is restarted now and then.

    `held` is what the ranks really do: the leases that the present lives of groups work for.
    `past` is what they did before. The groups that `serve` are alive and mean to stay.
    """

    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory(dir=FAST_DIR if FAST_DIR.is_dir() else None)
        self.scene = DurableScene(Path(self._folder.name) / "jobs.sqlite3")
        self.held: list[Lease] = []
        self.past: list[Lease] = []
        self.serve: set[str] = set()
        self.leaving: list[Lease] = []
        """Those of `held` that have been told to leave for more urgent jobs."""
        self._epochs = {"a": 0, "b": 0}
        self._ends: dict[str, JobState] = {}

    def teardown(self) -> None:
        """See the history to its end."""
        try:
            self.finish()
        finally:
            self.scene.close()
            self._folder.cleanup()

    def finish(self) -> None:
        """Stop all faults; then every job has to end."""
        for name in self._epochs:
            self.end_a_life(name, starts_again=True)
            self.look()
        self.scene.let_due()
        self.look()
        while self.held:
            lease = self._leave(self.held[0])
            self.scene.handle(JobStarted(lease=lease))
            self.scene.finish(lease)
            self.look()
        self.scene = self.scene.next_life()
        states = {job.state for job in self.scene.dispatcher.jobs()}
        assert all(state.is_terminal for state in states), states

    @invariant()
    def look(self) -> None:
        """Hand out what was given to groups, and check what must never change."""
        for job in self.scene.journal.values():
            if job.state.is_terminal:
                assert self._ends.setdefault(job.job_id, job.state) is job.state
        for run in self.scene.sent:
            lease = run.lease
            assert lease.group in self.serve, "a run for a group that is not there"
            assert lease.epoch == self._epochs[lease.group], "a run for a life that is over"
            assert lease.job_id not in {held.job_id for held in self.held}, "two attempts at once"
            assert lease not in self.past, "a lease that was in force before"
            self.held.append(lease)
        self.scene.sent.clear()
        self.leaving += self.scene.told_to_leave
        self.leaving = [lease for lease in self.leaving if lease in self.held]
        self.scene.told_to_leave.clear()

    # --- clients, and time -----------------------------------------------------------------------

    @initialize()
    def have_groups(self) -> None:
        for name in self._epochs:
            self._new_life(name)

    @initialize(target=jobs)
    def have_jobs(self) -> MultipleResults[str]:
        return multiple(*(self.scene.job() for _ in range(5)))

    @rule(target=jobs, rooms=st.lists(RARELY_NOT, min_size=1, max_size=3), priority=PRIORITIES)
    def submit(self, rooms: list[bool], priority: int) -> MultipleResults[str]:
        """Submit jobs, some of them while the disk is full."""
        return multiple(*(self.scene.submit(room=room, priority=priority)[0] for room in rooms))

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        self.scene.cancel(job_id)

    @rule(job_id=jobs)
    def delete(self, job_id: str) -> None:
        self.scene.handle(DeleteJob(job_id=job_id))

    @rule(seconds=st.sampled_from((1, 3, 7, 40)), beating=MOSTLY_ALL)
    def pass_time(self, seconds: int, beating: str) -> None:
        for _ in range(seconds):
            self.scene.now_s += 1.0
            for name in self._serving(beating):
                self.scene.beat(name, self._epochs[name], ranks=range(SMALL.world_size))
            self.scene.tick()

    @rule()
    def come_between_two_ticks(self) -> None:
        self.scene.now_s += 0.5

    # --- groups ----------------------------------------------------------------------------------

    @rule(name=st.sampled_from("ab"))
    def start_a_life(self, name: str) -> None:
        """Start a group, once nothing of its last life is left."""
        if all(lease.group != name for lease in self.held):
            self._new_life(name)

    @rule(name=st.sampled_from("ab"), starts_again=RARELY_NOT)
    def end_a_life(self, name: str, starts_again: bool) -> None:
        for lease in [lease for lease in self.held if lease.group == name]:
            self._leave(lease)
        self.serve.discard(name)
        self.scene.handle(GroupGone(group=name, epoch=self._epochs[name], reason="tested"))
        if starts_again:
            self._new_life(name)

    @rule(names=MOSTLY_ALL)
    def register_again(self, names: str) -> None:
        for name in self._serving(names):
            self._register(name)

    @rule(back=MOSTLY_ALL)
    def restart_the_broker(self, back: str) -> None:
        """Restart the broker alone; some groups that live register again."""
        self.scene = self.scene.next_life()
        self.register_again(back)

    # --- runs ------------------------------------------------------------------------------------

    @precondition(some_work)
    @rule(lease=one_of("held"))
    def start_a_run(self, lease: Lease) -> None:
        self.scene.handle(JobStarted(lease=lease))

    @precondition(some_work)
    @rule(lease=one_of("held"), step=st.integers(1, 20))
    def do_a_step(self, lease: Lease, step: int) -> None:
        self.scene.step(lease, Stage.DENOISE, step, 20)

    @precondition(some_work)
    @rule(lease=one_of("held"))
    def have_all_frames(self, lease: Lease) -> None:
        self.scene.handle(JobDecoded(lease=lease))

    @precondition(some_work)
    @rule(lease=one_of("held"))
    def finish_a_run(self, lease: Lease) -> None:
        self.scene.handle(JobFinished(lease=self._leave(lease), video="x.mp4"))

    @precondition(some_work)
    @rule(lease=one_of("held"))
    def fail_a_run(self, lease: Lease) -> None:
        failed = JobFailed(lease=self._leave(lease), code=ErrorCode.RUN_FAILED, reason="")
        self.scene.handle(failed)

    @precondition(some_work)
    @rule(lease=one_of("held"))
    def stop_a_run(self, lease: Lease) -> None:
        """Leave a run: because it was cancelled, or because the group is about to stop."""
        job = self.scene.journal.get(lease.job_id)
        if job is not None and job.lease == lease:
            self.serve.discard(lease.group)
        self.scene.handle(JobStopped(lease=self._leave(lease)))

    @precondition(lambda self: self.leaving)
    @rule(lease=one_of("leaving"))
    def leave_a_run_for_another(self, lease: Lease) -> None:
        self.scene.handle(JobStopped(lease=self._leave(lease), preempted=True))

    @precondition(lambda self: self.past)
    @rule(lease=one_of("past"))
    def lie(self, lease: Lease) -> None:
        """Have somebody repeat what was true once."""
        self.scene.tick()
        before = dict(self.scene.journal)
        lies: tuple[Event, ...] = (
            JobFinished(lease=lease, video="forged.mp4"),
            JobFailed(lease=lease, code=ErrorCode.RUN_FAILED, reason="forged"),
            JobStopped(lease=lease),
            JobStopped(lease=lease, preempted=True),
            GroupGone(group=lease.group, epoch=lease.epoch - 1, reason="forged"),
        )
        for told in lies:
            self.scene.handle(told)
        assert self.scene.journal == before, "a lie was believed"

    # --- words for the above ---------------------------------------------------------------------

    def _serving(self, names: str) -> list[str]:
        return [name for name in names if name in self.serve]

    def _new_life(self, name: str) -> None:
        self._epochs[name] += 1
        self.serve.add(name)
        self._register(name)

    def _register(self, name: str) -> None:
        epoch, size = self._epochs[name], SMALL.world_size
        running = [lease for lease in self.held if lease.group == name]
        self.scene.handle(GroupStarted(group=name, epoch=epoch, world_size=size))
        self.scene.handle(
            GroupReady(group=name, epoch=epoch, shape=SMALL, device="test", running=running)
        )

    def _leave(self, lease: Lease) -> Lease:
        self.held.remove(lease)
        self.leaving = [other for other in self.leaving if other != lease]
        self.past.append(lease)
        return lease


class DrainedHistories(Histories):
    """Histories at whose end the broker is drained and all groups end, as they are told to."""

    def finish(self) -> None:
        self.scene.handle(DrainBroker())
        for name, epoch in self._epochs.items():
            self.scene.gone(name, epoch)
        self.scene = self.scene.next_life()
        states = {job.state for job in self.scene.dispatcher.jobs()}
        assert JobState.IN_PROGRESS not in states


def settled(num_histories: int, num_steps: int) -> settings:
    return settings(
        max_examples=num_histories,
        stateful_step_count=num_steps,
        derandomize=True,
        deadline=None,
        database=None,
    )


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keep the words of a million events."""
    with caplog.at_level(logging.CRITICAL, "broker"):
        yield


def test_random_histories_keep_every_promise() -> None:
    run_state_machine_as_test(Histories, settings=settled(NUM_HISTORIES, NUM_STEPS))


def test_a_drained_broker_leaves_only_waiting_and_finished_jobs() -> None:
    run_state_machine_as_test(DrainedHistories, settings=settled(NUM_HISTORIES // 10, 20))
