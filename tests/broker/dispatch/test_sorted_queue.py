"""The queue: who is before whom, who is told of it, and that it costs no more in a long one."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.dispatch.commands import Command, Publish, WatchersChanged
from broker.dispatch.sorted_queue import SortedQueue
from broker.wire.group_reports import JobDecoded
from broker.wire.job import GroupShape, Stage
from broker.wire.replies import JobHistory
from broker.wire.requests import CancelJob, WatchJob
from tests.broker.dispatch.long_queue import LongQueue
from tests.broker.dispatch.scene import Scene, find, runs
from tests.broker.driver import SPEC, Front, broker_config, running_broker


@given(st.lists(st.integers(0, 3000), unique=True, max_size=3000), st.data())
def test_the_line_is_a_sorted_list(numbers: list[int], data: st.DataObject) -> None:
    line = SortedQueue()
    for number in numbers:
        line.add((0.0, number), str(number))
    leaving = data.draw(st.sets(st.sampled_from(numbers))) if numbers else set()
    for number in leaving:
        line.remove((0.0, number), str(number))
    expected = sorted(set(numbers) - leaving)
    assert list(line) == list(map(str, expected))
    assert len(line) == len(expected)
    assert [line.num_before((0.0, number), str(number)) for number in expected] == [
        *range(len(expected))
    ]


def test_a_line_of_thousands_stays_in_order_while_it_empties_at_both_ends_and_inside() -> None:
    line = SortedQueue()
    left = list(range(5000))
    for number in left:
        line.add((0.0, number), str(number))
    while left:
        for number in {left[0], left[len(left) // 2], left[-1]}:
            line.remove((0.0, number), str(number))
            left.remove(number)
        assert len(line) == len(left)
    line.add((0.0, 7), "7")
    assert (list(line), line.num_before((0.0, 7), "7")) == (["7"], 0)


def positions_told(scene: Scene, job_id: str) -> list[int | None]:
    return [view.queue_position for view in scene.views[job_id]]


def test_a_watcher_is_told_of_each_place_and_others_of_none() -> None:
    scene = Scene()
    first, second, third, fourth = (scene.job() for _ in range(4))
    scene.handle(WatchersChanged(third, True))
    scene.cancel(first)
    scene.cancel(second)
    assert positions_told(scene, third) == [3, 2, 1]
    assert positions_told(scene, fourth) == [4]
    assert scene.positions(third, fourth) == [1, 2]


def test_whoever_begins_to_watch_is_told_of_a_move_that_nobody_heard_of() -> None:
    scene = Scene()
    first, second = scene.job(), scene.job()
    scene.cancel(first)
    (told,) = find(scene.handle(WatchersChanged(second, True)), Publish)
    assert (told.view.job_id, told.view.queue_position) == (second, 1)
    assert scene.handle(WatchersChanged(second, True)) == []


def test_nobody_is_told_after_the_last_watcher_has_gone() -> None:
    scene = Scene()
    first, second, third = (scene.job() for _ in range(3))
    scene.handle(WatchersChanged(third, True))
    scene.cancel(first)
    scene.handle(WatchersChanged(third, False))
    scene.cancel(second)
    assert positions_told(scene, third) == [3, 2]


def test_a_watched_job_that_comes_back_to_the_queue_moves_those_behind_it() -> None:
    scene = Scene()
    scene.group()
    running, waiting = scene.job(), scene.job()
    scene.start(running)
    scene.handle(WatchersChanged(waiting, True))
    scene.gone()
    assert positions_told(scene, waiting)[-2:] == [1, 2]


def test_the_time_left_of_a_job_far_back_counts_those_between_by_their_average() -> None:
    scene = Scene()
    scene.group()
    teach_pace(scene)
    short, long = (msgspec.structs.replace(SPEC, infer_steps=steps) for steps in (20, 60))
    jobs = [scene.job(long if number % 2 else short) for number in range(60)]
    seconds = [scene.dispatcher.eta_s(job_id, scene.now_s) or 0.0 for job_id in jobs]
    # The running one takes 10, every pair 10 and 30.
    assert seconds[15] == pytest.approx(8 * 40.0)
    assert seconds[59] == pytest.approx(30 * 40.0, rel=0.03)
    assert sorted(seconds[:17]) == seconds[:17]


def teach_pace(scene: Scene) -> None:
    """Run a job that spends half a second on each of its steps, and nothing else."""
    lease = scene.start(scene.job())
    scene.step(lease, Stage.ENCODE, 1, 1)
    for step in range(1, 21):
        scene.now_s += 0.5
        scene.step(lease, Stage.DENOISE, step, 20)
    scene.step(lease, Stage.DECODE, 1, 1)
    scene.finish(lease)


def num_calls(work: Callable[[], object]) -> int:
    """Return how many functions a piece of work calls, those written in C included."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def costs(num_queued: int, num_groups: int) -> dict[str, int]:
    """Return how many calls each event costs with so many jobs that wait, and groups."""
    queue = LongQueue(num_queued, num_groups)
    events: list[Callable[[], object]] = [queue.submit, queue.dispatch, queue.finish]
    events += [queue.cancel, queue.ask, queue.repeat_ready, queue.beat, queue.preempt, queue.lose]
    return {event.__name__: num_calls(event) for event in events}


def test_no_event_costs_more_in_a_queue_of_two_thousand_than_in_one_of_a_hundred() -> None:
    """Seen to fail with every waiting job told of its place, with every job ahead placed one by one
    to tell the time, and with the queue checked whenever a group repeats that it is ready.
    """
    short, long = costs(100, 1), costs(2_000, 1)
    assert all(long[event] <= 1.5 * short[event] for event in short), (short, long)


def test_no_event_costs_more_in_a_fleet_of_a_thousand_groups_than_in_one_of_fifty() -> None:
    """Seen to fail with every group asked whether it is free, with every group asked how long it
    will be busy, and with every group asked whether it has told its shape.
    """
    few, many = costs(200, 50), costs(200, 1_000)
    assert all(many[event] <= 1.5 * few[event] for event in few), (few, many)


def test_a_free_group_passes_over_no_job_that_it_cannot_take_or_that_rests() -> None:
    """Seen to fail with the line searched for the first job that fits and is due."""

    def cost(num_ahead: int) -> int:
        scene = Scene(max_queue=1000)
        scene.group("large")
        for epoch in range(1, num_ahead + 1):
            scene.start(scene.job())
            scene.gone("large", epoch)
            scene.group("large", epoch + 1)
        scene.gone("large", num_ahead + 1)
        for _ in range(num_ahead):
            scene.job(msgspec.structs.replace(SPEC, ulysses_size=8))
        scene.group("small", shape=GroupShape(world_size=2, num_heads=8))
        decoded = JobDecoded(lease=scene.start(scene.job()))
        next_job = scene.job()
        commands: list[Command] = []
        calls = num_calls(lambda: commands.extend(scene.dispatcher.handle(decoded, scene.now_s)))
        assert [run.lease.job_id for run in runs(commands)] == [next_job]
        return calls

    assert cost(200) <= 1.5 * cost(20)


async def test_a_watcher_sees_its_place_move_and_whoever_asks_is_told_the_same(
    tmp_path: Path,
) -> None:
    async with running_broker(broker_config(tmp_path)) as broker, Front(broker.config) as front:
        first, second, third = [await front.submit_ok() for _ in range(3)]
        assert (await front.watch(third)).queue_position == 3
        await front.ask(CancelJob(job_id=first))
        moved = await front.event()
        assert (moved.job_id, moved.queue_position) == (third, 2)
        assert (await front.get(second)).queue_position == 1
        history = await front.ask(WatchJob(job_id=third, after_seq=moved.seq - 1))
        assert history == JobHistory(jobs=[moved])
