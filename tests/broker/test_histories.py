"""Random histories: whatever happens in whatever order, the promises hold."""

import random

import pytest

from broker.job import JobState, Stage
from broker.protocol import (
    DrainBroker,
    ErrorCode,
    GroupGone,
    GroupReady,
    GroupStarted,
    JobDecoded,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    Lease,
)
from tests.broker.driver import SHAPE
from tests.broker.scene import Scene

NUM_HISTORIES = 500
NUM_STEPS = 50


class Chaos:
    """Groups that die, lie and linger, around a dispatcher that is restarted now and then.

    `_held` is what the ranks really do: the leases that each life of a group works for.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._scene = Scene(job_ttl_s=500.0)
        self._held: dict[str, list[Lease]] = {"a": [], "b": []}
        self._epochs = {"a": 0, "b": 0}
        self._leaving: set[str] = set()
        self._old: list[Lease] = []
        self._ends: dict[str, JobState] = {}

    def step(self) -> None:
        """Do one random thing."""
        acts = (
            self._submit, self._submit, self._cancel, self._cancel, self._pass_time,
            self._work, self._work, self._work, self._work, self._start_life, self._lie,
            self._end_life, self._restart,
        )  # fmt: skip
        self._random.choice(acts)()
        self._look()

    def finish(self) -> None:
        """Stop all faults; then every job has to end."""
        for name in self._held:
            self._held[name] = []
            self._epochs[name] += 1
            self._scene.group(name, self._epochs[name])
        self._scene.let_due()
        for _ in range(10 * NUM_STEPS):
            self._look()
            for leases in self._held.values():
                for lease in list(leases):
                    leases.remove(lease)
                    self._scene.handle(JobStarted(lease=lease))
                    self._scene.finish(lease)
        states = {job.state for job in self._scene.dispatcher.jobs()}
        assert all(state.is_terminal for state in states), states

    def _look(self) -> None:
        """Hand out what was given to groups, and check what must never change."""
        for job in self._scene.journal.values():
            if job.state.is_terminal:
                assert self._ends.setdefault(job.job_id, job.state) is job.state
        for group in self._scene.dispatcher.groups():
            for run in group.runs.values():
                known = run.lease in self._held[group.name] or run.lease in self._old
                if not known and run.lease.epoch == self._epochs[group.name]:
                    self._no_overlap(run.lease)
                    self._held[group.name].append(run.lease)

    def _no_overlap(self, new: Lease) -> None:
        working = [lease for leases in self._held.values() for lease in leases]
        assert new.job_id not in {lease.job_id for lease in working}, "two attempts at once"

    def _submit(self) -> None:
        self._scene.submit(room=self._random.random() < 0.9)

    def _cancel(self) -> None:
        jobs = list(self._scene.journal)
        if jobs:
            self._scene.cancel(self._random.choice(jobs))

    def _pass_time(self) -> None:
        self._scene.wait(self._random.choice((1, 3, 7, 40)))

    def _start_life(self) -> None:
        name = self._random.choice("ab")
        if not self._held[name]:
            self._leaving.discard(name)
            self._epochs[name] += 1
            self._scene.group(name, self._epochs[name])

    def _end_life(self) -> None:
        name = self._random.choice("ab")
        self._old += self._held[name]
        self._held[name] = []
        self._scene.handle(GroupGone(group=name, epoch=self._epochs[name], reason="chaos"))

    def _work(self) -> None:
        """Have a group report something true about one of its runs."""
        name = self._random.choice("ab")
        if not self._held[name]:
            return
        lease = self._random.choice(self._held[name])
        match self._random.randrange(6):
            case 0:
                self._scene.handle(JobStarted(lease=lease))
            case 1:
                self._scene.handle(JobDecoded(lease=lease))
            case 2:
                self._scene.step(lease, Stage.DENOISE, self._random.randint(1, 20), 20)
            case 3:
                self._over(name, lease)
                self._scene.handle(JobFinished(lease=lease, video="x.mp4"))
            case 4:
                self._over(name, lease)
                self._scene.handle(JobFailed(lease=lease, code=ErrorCode.RUN_FAILED, reason=""))
            case _:
                self._over(name, lease)
                self._leaving.add(name)
                self._scene.handle(JobStopped(lease=lease))

    def _over(self, name: str, lease: Lease) -> None:
        self._held[name].remove(lease)
        self._old.append(lease)

    def _lie(self) -> None:
        """Have somebody repeat what was true once."""
        if self._old:
            lease = self._random.choice(self._old)
            before = dict(self._scene.journal)
            self._scene.handle(JobFinished(lease=lease, video="forged.mp4"))
            self._scene.handle(JobStopped(lease=lease))
            self._scene.gone(lease.group, lease.epoch - 1)
            assert self._scene.journal == before

    def _restart(self) -> None:
        """Restart the broker alone; the groups that live register again."""
        kept = {job.job_id for job in self._scene.dispatcher.jobs()}
        left = [job for job in self._scene.journal.values() if job.job_id in kept]
        now_s = self._scene.now_s
        self._scene = Scene(restored=sorted(left, key=lambda job: job.number), job_ttl_s=500.0)
        self._scene.now_s = now_s
        for name, leases in self._held.items():
            if name not in self._leaving and self._random.random() < 0.8:
                self._scene.handle(GroupStarted(group=name, epoch=self._epochs[name], world_size=8))
                self._scene.handle(
                    GroupReady(
                        group=name, epoch=self._epochs[name], shape=SHAPE, device="test",
                        running=leases,
                    )
                )  # fmt: skip


@pytest.mark.parametrize("block", range(10))
def test_random_histories_keep_every_promise(block: int) -> None:
    for number in range(NUM_HISTORIES // 10):
        chaos = Chaos(seed=block * 1000 + number)
        for _ in range(NUM_STEPS):
            chaos.step()
        chaos.finish()


def test_a_drained_broker_leaves_only_waiting_and_finished_jobs() -> None:
    for seed in range(50):
        chaos = Chaos(seed)
        for _ in range(20):
            chaos.step()
        scene = chaos._scene
        scene.handle(DrainBroker())
        for name, epoch in chaos._epochs.items():
            scene.gone(name, epoch)
        states = {job.state for job in scene.dispatcher.jobs()}
        assert JobState.IN_PROGRESS not in states
