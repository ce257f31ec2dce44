"""Priorities: the order of the queue, and which attempts make way for urgent jobs."""

import msgspec

from broker.wire.group_reports import (
    DrainBroker,
    DrainGroup,
    JobDecoded,
    JobDelayed,
    JobFinished,
    JobStopped,
)
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobState, Stage
from broker.wire.job_view import Lease
from tests.broker.dispatch.scene import PRIORITY_STEP_S, START_S, Scene, preempted, run_commands
from tests.broker.driver import SPEC

SMALL = GroupShape(world_size=2, num_heads=8)
LARGE_ONLY = msgspec.structs.replace(SPEC, ulysses_size=8)


def leave(scene: Scene, lease: Lease) -> list[str]:
    """Report an attempt as left for a more urgent job; return the jobs given to groups then."""
    commands = scene.handle(JobStopped(lease=lease, preempted=True))
    return [run.lease.job_id for run in run_commands(commands)]


def busy_scene(*priorities: int) -> tuple[Scene, list[Lease]]:
    """Return a scene whose groups run jobs of these priorities in order of submission."""
    scene = Scene()
    leases = []
    for name, priority in zip("abcdef", priorities, strict=False):
        scene.group(name)
        leases.append(scene.start(scene.job(priority=priority)))
        scene.now_s += 1.0
    return scene, leases


# --- the order -----------------------------------------------------------------------------------


def test_higher_priorities_come_first_and_equal_ones_in_order_of_submission() -> None:
    scene = Scene()
    low, first, second, high = (scene.job(priority=priority) for priority in (-1, 0, 0, 1))
    assert scene.positions(high, first, second, low) == [1, 2, 3, 4]
    scene.group()
    assert scene.lease(high).group == "a"


def test_a_level_of_priority_is_worth_a_fixed_waiting_time() -> None:
    scene = Scene()
    old = scene.job()
    scene.wait(PRIORITY_STEP_S - 1)
    urgent = scene.job(priority=1)
    scene.wait(2)
    late = scene.job(priority=1)
    assert scene.positions(urgent, old, late) == [1, 2, 3]


def test_a_job_of_the_lowest_priority_runs_even_if_urgent_ones_keep_coming() -> None:
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job(priority=10))
    patient = scene.job(priority=-10)
    for _ in range(22):
        scene.now_s += PRIORITY_STEP_S
        scene.job(priority=10)
        (run,) = run_commands(scene.handle(JobDecoded(lease=lease)))
        scene.handle(JobFinished(lease=lease, video="x.mp4"))
        lease = scene.start(run.lease.job_id)
    assert scene.view(patient).state is JobState.SUCCEED


def test_the_queue_keeps_the_order_of_submission_when_the_clock_is_set_back() -> None:
    scene = Scene(now_s=START_S)
    first = scene.job()
    scene.now_s -= 500.0  # while the broker restarts
    behind = Scene(scene.journal.values(), now_s=scene.now_s)
    second = behind.job()
    ahead = Scene(behind.journal.values(), now_s=START_S + 500.0)
    assert ahead.positions(first, second) == [1, 2]


def test_the_priority_survives_a_restart() -> None:
    scene = Scene()
    low, high = scene.job(), scene.job(priority=3)
    restarted = Scene(scene.journal.values())
    assert restarted.positions(high, low) == [1, 2]
    assert restarted.dispatcher.views(restarted.now_s)[1].priority == 3


# --- preemption ----------------------------------------------------------------------------------


def test_the_last_of_the_less_urgent_attempts_leaves_and_keeps_its_queue_position() -> None:
    scene, (_, second) = busy_scene(0, 0)
    behind = scene.job()
    scene.now_s += 1.0
    urgent, commands = scene.submit(priority=1)
    assert preempted(commands) == [second]
    assert leave(scene, second) == [urgent]
    assert scene.positions(second.job_id, behind) == [1, 2]
    job = scene.journal[second.job_id]
    assert (job.num_lost, job.due_at, scene.view(job.job_id).state) == (0, 0.0, JobState.IN_QUEUE)
    assert scene.dispatcher.health().ready


def test_of_attempts_with_several_priorities_the_last_in_order_leaves() -> None:
    scene, (lowest, _) = busy_scene(-1, 0)
    assert preempted(scene.submit(priority=1)[1]) == [lowest]


def test_a_preempted_job_continues_under_a_new_lease() -> None:
    """With the same attempt number, a repeated report of the first would count for the second."""
    scene, (first,) = busy_scene(0)
    urgent = scene.job(priority=1)
    leave(scene, first)
    scene.finish(scene.start(urgent))
    second = scene.start(first.job_id)
    assert (second.group, second.epoch, second.attempt) == (first.group, first.epoch, 2)
    scene.handle(JobStopped(lease=first, preempted=True))
    assert scene.lease(first.job_id) == second


def test_no_attempt_leaves_for_a_job_of_the_same_or_a_lower_priority() -> None:
    scene, _ = busy_scene(0)
    assert preempted(scene.submit(priority=0)[1]) == []
    assert preempted(scene.submit(priority=-1)[1]) == []


def test_an_attempt_whose_job_has_waited_long_is_not_preempted() -> None:
    """Otherwise the two jobs would preempt each other in turns."""
    scene, (old,) = busy_scene(0)
    scene.wait(2 * PRIORITY_STEP_S, heartbeats_of="a")
    assert preempted(scene.submit(priority=1)[1]) == []
    assert preempted(scene.submit(priority=3)[1]) == [old]


def test_one_attempt_leaves_for_each_urgent_job_that_no_free_group_takes() -> None:
    scene, (first, second, third) = busy_scene(0, 0, 0)
    assert preempted(scene.submit(priority=1)[1]) == [third]
    assert scene.tick() == []
    assert preempted(scene.submit(priority=1)[1]) == [second]
    scene.group("d")  # takes the first urgent job
    assert preempted(scene.submit(priority=1)[1]) == []
    assert preempted(scene.submit(priority=1)[1]) == [first]


def test_an_urgent_job_waits_for_a_group_that_already_leaves_a_cancelled_attempt() -> None:
    scene, (first, second) = busy_scene(0, 0)
    scene.cancel(first.job_id)
    urgent, commands = scene.submit(priority=1)
    assert preempted(commands) == []
    scene.handle(JobStopped(lease=first))
    assert scene.lease(urgent).group == first.group
    assert scene.lease(second.job_id) == second


def test_an_attempt_that_decodes_is_not_preempted() -> None:
    scene, (first,) = busy_scene(0)
    scene.step(first, Stage.DENOISE, 20, 20)
    assert preempted(scene.submit(priority=1)[1]) == []


def test_a_group_that_waits_for_disk_space_is_not_preempted() -> None:
    scene, (first,) = busy_scene(0)
    scene.handle(JobDecoded(lease=first))
    scene.start(scene.job())
    scene.handle(JobDelayed(lease=first, reason="the disk is full"))
    assert preempted(scene.submit(priority=1)[1]) == []


def test_only_a_group_that_can_run_the_urgent_job_is_preempted() -> None:
    scene = Scene(is_open=True)
    scene.wait(31)
    scene.group("large")
    large = scene.start(scene.job())
    scene.now_s += 1.0
    scene.group("small", shape=SMALL)
    small = scene.start(scene.job())
    _, commands = scene.submit(LARGE_ONLY, priority=1)
    assert preempted(commands) == [large]
    assert preempted(scene.submit(priority=1)[1]) == [small]


def test_neither_a_draining_broker_nor_a_draining_group_preempts() -> None:
    scene, _ = busy_scene(0)
    scene.handle(DrainGroup(group="a", epoch=1))
    assert preempted(scene.submit(priority=1)[1]) == []
    scene, _ = busy_scene(0)
    scene.handle(DrainBroker())
    assert preempted(scene.tick()) == []


# --- events during a preemption ------------------------------------------------------------------


def test_a_cancelled_job_stays_cancelled_when_its_attempt_is_preempted() -> None:
    scene, (first,) = busy_scene(0)
    urgent = scene.job(priority=1)
    scene.cancel(first.job_id)
    assert leave(scene, first) == [urgent]
    assert scene.view(first.job_id).state is JobState.CANCELLED


def test_a_preempted_attempt_that_finishes_frees_the_group_too() -> None:
    scene, (first,) = busy_scene(0)
    urgent = scene.job(priority=1)
    (run,) = run_commands(scene.handle(JobDecoded(lease=first)))
    assert run.lease.job_id == urgent
    scene.finish(first)
    assert scene.view(first.job_id).state is JobState.SUCCEED


def test_a_group_that_dies_while_it_leaves_counts_as_a_lost_attempt() -> None:
    scene, (first,) = busy_scene(0)
    scene.job(priority=1)
    scene.lose_group()
    assert scene.journal[first.job_id].num_lost == 1


def test_a_group_that_stops_while_it_leaves_gets_no_job_and_loses_no_attempt() -> None:
    scene, (first,) = busy_scene(0)
    scene.job(priority=1)
    assert run_commands(scene.handle(JobStopped(lease=first))) == []
    assert scene.journal[first.job_id].num_lost == 0


def test_the_command_to_leave_is_repeated_when_the_group_still_lists_the_attempt() -> None:
    """If the command was lost, the urgent job would wait for the attempt to finish."""
    scene, (first,) = busy_scene(0)
    scene.job(priority=1)
    assert preempted(scene.group(running=[first])) == [first]


def test_a_preempted_job_is_requeued_even_if_the_broker_was_restarted_in_between() -> None:
    """`JobStopped.preempted` shows that the group did not stop by itself."""
    scene, (first,) = busy_scene(0)
    urgent = scene.job(priority=1)
    restarted = Scene(scene.journal.values())
    restarted.handle(JobStopped(lease=first, preempted=True))
    restarted.group()
    assert restarted.lease(urgent).group == "a"
    assert restarted.journal[first.job_id].num_lost == 0


def test_a_group_resumes_the_job_it_left_if_the_urgent_job_was_cancelled() -> None:
    scene, (first,) = busy_scene(0)
    urgent = scene.job(priority=1)
    scene.cancel(urgent)
    assert leave(scene, first) == [first.job_id]
