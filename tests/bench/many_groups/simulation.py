"""The cost of an event in the dispatcher by number of groups, without sockets or clock.

Every group sends in each second what a real one does; the simulation advances the time.
"""

import gc
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from broker.dispatch.commands import Client, Command, Event, JobAdmitted, ToGroup
from broker.dispatch.dispatcher import Dispatcher
from broker.dispatch.policy import DispatchPolicy
from broker.wire.group_commands import RunJob
from broker.wire.group_reports import (
    GroupGone,
    GroupReady,
    GroupStarted,
    JobDecoded,
    JobFinished,
    JobStarted,
)
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import Heartbeat, StepDone
from broker.wire.requests import SubmitJob
from tests.bench.many_groups.stub import SHAPE, WORLD_SIZE
from tests.broker.driver import IMAGE, SPEC

NUM_JOBS = 100_000
FLEETS = (100, 1_000, 10_000)
RUN_S = 50
LOST_EVERY_S = 20 * 60
"""Mean life of a group: 5 % of the groups are lost per minute."""
NUM_GROUP_SECONDS = 40_000
"""Simulated seconds times groups."""

Result = TypeVar("Result")


def measure() -> dict[str, dict[str, float]]:
    """Return microseconds by event and number of groups, and the ratio of largest to smallest.

    In processor time, so that other processes on the machine do not count.
    """
    logging.getLogger("broker").setLevel(logging.CRITICAL)  # of lost groups, which are many
    by_size = {size: Simulation(size).costs_us(NUM_GROUP_SECONDS // size) for size in FLEETS}
    figures = {
        kind: {str(size): costs[kind] for size, costs in by_size.items()}
        for kind in by_size[FLEETS[0]]
    }
    for costs in figures.values():
        costs["ratio"] = round(costs[str(FLEETS[-1])] / costs[str(FLEETS[0])], 2)
    return figures


CLIENT = Client(b"front", b"request")


class Simulation:
    """Groups that all run jobs, while 100,000 jobs wait."""

    def __init__(self, num_groups: int) -> None:
        self._dispatcher = Dispatcher(
            DispatchPolicy(is_open=True, max_queue=NUM_JOBS + num_groups + 1000, job_ttl_s=3600.0)
        )
        self._now_s = 0.0
        self._random = random.Random(num_groups)
        self._num_submitted = 0
        self._epochs = dict.fromkeys((f"g{index}" for index in range(num_groups)), 0)
        self._runs: dict[str, Lease] = {}
        self._spent_s: defaultdict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()
        for _ in range(NUM_JOBS + num_groups):
            self._submit()
        for group in self._epochs:
            self._start(group)
        self._spent_s.clear()
        self._counts.clear()

    def costs_us(self, num_seconds: int) -> dict[str, float]:
        """Return the mean cost of each event, and of an event including its share of a tick."""
        # A garbage collection visits all jobs; that is rare, and not the dispatcher's cost.
        gc.collect()
        gc.freeze()
        for _ in range(max(1, num_seconds)):
            self._second()
        gc.unfreeze()
        costs = {kind: self._spent_s[kind] / count for kind, count in self._counts.items()}
        num_events = self._counts.total() - self._counts["tick"]
        costs["event, with its part of the tick"] = sum(self._spent_s.values()) / num_events
        return {kind: round(cost * 1e6, 2) for kind, cost in costs.items()}

    def _second(self) -> None:
        groups = list(self._epochs)
        for number, group in enumerate(groups):
            self._now_s += 1.0 / len(groups)
            self._live(group, (int(self._now_s) + number) % RUN_S)
        self._clock("tick", self._dispatcher.tick)

    def _live(self, group: str, second: int) -> None:
        """Send what a group sends in a second of an attempt."""
        lease = self._runs[group]
        for rank in range(WORLD_SIZE):
            self._clock("beat", partial(self._dispatcher.on_heartbeat, _beat(lease, rank, second)))
        if second == 0:
            self._finish(lease)
        elif second % 2:
            self._register(lease)
        else:
            step = StepDone(
                lease=lease, stage=Stage.DENOISE, step=second // 2, num_steps=RUN_S // 2
            )
            self._handle("step", step)
        if self._random.random() < 1.0 / LOST_EVERY_S:
            gone = GroupGone(group=group, epoch=self._epochs[group], reason="simulated")
            self._handle("lost", gone)
            self._start(group)

    def _finish(self, lease: Lease) -> None:
        self._take(self._handle("decoded, and dispatch", JobDecoded(lease=lease)))
        self._handle("finished", JobFinished(lease=lease, video=f"{lease.job_id}.mp4"))
        self._submit()

    def _start(self, group: str) -> None:
        """Start an epoch of a group, which gets a job at once."""
        self._epochs[group] += 1
        epoch = self._epochs[group]
        self._handle("started", GroupStarted(group=group, epoch=epoch, world_size=WORLD_SIZE))
        ready = GroupReady(group=group, epoch=epoch, shape=SHAPE, device="simulated")
        self._take(self._handle("ready, and dispatch", ready))

    def _register(self, lease: Lease) -> None:
        """Register again, which tells the broker nothing new."""
        group, epoch = lease.group, lease.epoch
        self._handle("register", GroupStarted(group=group, epoch=epoch, world_size=WORLD_SIZE))
        ready = GroupReady(
            group=group, epoch=epoch, shape=SHAPE, device="simulated", running=[lease]
        )
        self._handle("register", ready)

    def _take(self, commands: list[Command]) -> None:
        (run,) = [command.message for command in commands if isinstance(command, ToGroup)]
        assert isinstance(run, RunJob), run
        self._runs[run.lease.group] = run.lease
        self._handle("taken", JobStarted(lease=run.lease))

    def _submit(self) -> None:
        self._num_submitted += 1
        job_id = f"{self._num_submitted:032x}"
        self._handle("submit", SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE))
        self._handle("stored", JobAdmitted(job_id))

    def _handle(self, kind: str, event: Event) -> list[Command]:
        return self._clock(kind, lambda now_s: self._dispatcher.handle(event, now_s, CLIENT))

    def _clock(self, kind: str, act: Callable[[float], Result]) -> Result:
        begun = time.process_time()
        result = act(self._now_s)
        self._spent_s[kind] += time.process_time() - begun
        self._counts[kind] += 1
        return result


def _beat(lease: Lease, rank: int, second: int) -> Heartbeat:
    return Heartbeat(
        group=lease.group,
        epoch=lease.epoch,
        rank=rank,
        pid=rank,
        device="simulated",
        stage=Stage.DENOISE,
        step=second // 2,
        num_done=second // 2,
        memory_bytes=0,
    )


def table(figures: dict[str, dict[str, float]]) -> str:
    lines = [f"{'microseconds at':36}" + "".join(f"{size:>10,}" for size in FLEETS) + "  ratio"]
    for kind, costs in figures.items():
        cells = "".join(f"{costs[str(size)]:10.1f}" for size in FLEETS)
        lines.append(f"{kind:36}{cells}{costs['ratio']:7.2f}")
    return "\n".join(lines)
