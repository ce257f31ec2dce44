"""The queue: its order, the positions that are published, and the cost of events in a long one."""

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
from broker.wire.group_shape import GroupShape
from broker.wire.job import Stage
from broker.wire.replies import JobHistory
from broker.wire.requests import CancelJob, WatchJob
from tests.broker.dispatch.long_queue import LongQueue
from tests.broker.dispatch.scene import Scene, find, run_commands
from tests.broker.driver import SPEC, Front, broker_config, running_broker


@given(st.lists(st.integers(0, 3000), unique=True, max_size=3000), st.data())
def test_a_sorted_queue_behaves_like_a_sorted_list(numbers: list[int], data: st.DataObject) -> None:
    queue = SortedQueue()
    for number in numbers:
        queue.add(((0.0, number), str(number)))
    removed = data.draw(st.sets(st.sampled_from(numbers))) if numbers else set()
    for number in removed:
        queue.remove(((0.0, number), str(number)))
    expected = sorted(set(numbers) - removed)
    assert list(queue) == list(map(str, expected))
    assert len(queue) == len(expected)
    assert [queue.num_before(((0.0, number), str(number))) for number in expected] == [
        *range(len(expected))
    ]


def test_thousands_of_entries_stay_in_order_while_entries_leave_at_both_ends_and_inside() -> None:
    queue = SortedQueue()
    left = list(range(12_000))
    for number in left:
        queue.add(((0.0, number), str(number)))
    while left:
        for number in {left[0], left[len(left) // 2], left[-1]}:
            queue.remove(((0.0, number), str(number)))
            left.remove(number)
        assert len(queue) == len(left)
    queue.add(((0.0, 7), "7"))
    assert (list(queue), queue.num_before(((0.0, 7), "7"))) == (["7"], 0)


def published_positions(scene: Scene, job_id: str) -> list[int | None]:
    return [view.queue_position for view in scene.views[job_id]]


def test_every_position_of_a_watched_job_is_published_and_none_of_other_jobs() -> None:
    scene = Scene()
    first, second, third, fourth = (scene.job() for _ in range(4))
    scene.handle(WatchersChanged(third, True))
    scene.cancel(first)
    scene.cancel(second)
    assert published_positions(scene, third) == [3, 2, 1]
    assert published_positions(scene, fourth) == [4]
    assert scene.positions(third, fourth) == [1, 2]


def test_a_new_watcher_gets_a_position_that_was_not_published_before() -> None:
    scene = Scene()
    first, second = scene.job(), scene.job()
    scene.cancel(first)
    (published,) = find(scene.handle(WatchersChanged(second, True)), Publish)
    assert (published.view.job_id, published.view.queue_position) == (second, 1)
    assert scene.handle(WatchersChanged(second, True)) == []


def test_no_position_is_published_after_the_last_watcher_has_left() -> None:
    scene = Scene()
    first, second, third = (scene.job() for _ in range(3))
    scene.handle(WatchersChanged(third, True))
    scene.cancel(first)
    scene.handle(WatchersChanged(third, False))
    scene.cancel(second)
    assert published_positions(scene, third) == [3, 2]


def test_a_requeued_job_moves_the_watched_jobs_behind_it() -> None:
    scene = Scene()
    scene.group()
    running, waiting = scene.job(), scene.job()
    scene.start(running)
    scene.handle(WatchersChanged(waiting, True))
    scene.lose_group()
    assert published_positions(scene, waiting)[-2:] == [1, 2]


def test_the_estimate_of_a_job_far_back_counts_the_jobs_in_between_by_their_average() -> None:
    scene = Scene()
    scene.group()
    teach_pace(scene)
    short, long = (msgspec.structs.replace(SPEC, infer_steps=steps) for steps in (20, 60))
    jobs = [scene.job(long if number % 2 else short) for number in range(60)]
    seconds = [scene.dispatcher.eta_s(job_id, scene.now_s) or 0.0 for job_id in jobs]
    # The running job takes 10 s, and each pair takes 10 s and 30 s.
    assert seconds[15] == pytest.approx(8 * 40.0)
    assert seconds[59] == pytest.approx(30 * 40.0, rel=0.03)
    assert sorted(seconds[:17]) == seconds[:17]


def teach_pace(scene: Scene) -> None:
    """Run a job that takes half a second for each denoising step, and no time otherwise."""
    lease = scene.start(scene.job())
    scene.step(lease, Stage.ENCODE, 1, 1)
    for step in range(1, 21):
        scene.now_s += 0.5
        scene.step(lease, Stage.DENOISE, step, 20)
    scene.step(lease, Stage.DECODE, 1, 1)
    scene.finish(lease)


def num_calls(work: Callable[[], object]) -> int:
    """Return how many functions a piece of work calls, including those written in C."""
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
    """Return how many function calls each event costs, by its name."""
    queue = LongQueue(num_queued, num_groups)
    events: list[Callable[[], object]] = [queue.submit, queue.dispatch, queue.finish]
    events += [
        queue.cancel,
        queue.ask,
        queue.repeat_ready,
        queue.heartbeat,
        queue.preempt,
        queue.lose,
    ]
    return {event.__name__: num_calls(event) for event in events}


def test_no_event_costs_more_in_a_queue_of_two_thousand_than_in_a_queue_of_a_hundred() -> None:
    short, long = costs(100, 1), costs(2_000, 1)
    assert all(long[event] <= 1.5 * short[event] for event in short), (short, long)


def test_no_event_costs_more_with_a_thousand_groups_than_with_fifty() -> None:
    few, many = costs(200, 50), costs(200, 1_000)
    assert all(many[event] <= 1.5 * few[event] for event in few), (few, many)


def test_a_free_group_finds_its_job_without_looking_at_unfit_or_pausing_ones() -> None:
    def cost(num_ahead: int) -> int:
        scene = Scene(max_queue=1000)
        scene.group("large")
        for epoch in range(1, num_ahead + 1):
            scene.start(scene.job())
            scene.lose_group("large", epoch)
            scene.group("large", epoch + 1)
        scene.lose_group("large", num_ahead + 1)
        for _ in range(num_ahead):
            scene.job(msgspec.structs.replace(SPEC, ulysses_size=8))
        scene.group("small", shape=GroupShape(world_size=2, num_heads=8))
        decoded = JobDecoded(lease=scene.start(scene.job()))
        next_job = scene.job()
        commands: list[Command] = []
        calls = num_calls(lambda: commands.extend(scene.dispatcher.handle(decoded, scene.now_s)))
        assert [run.lease.job_id for run in run_commands(commands)] == [next_job]
        return calls

    assert cost(200) <= 1.5 * cost(20)


async def test_events_and_replies_show_the_same_queue_position(
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
