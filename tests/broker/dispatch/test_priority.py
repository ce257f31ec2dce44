"""Priorities: who comes first, who is sent away for whom, and that nobody waits for ever."""

import msgspec

from broker.wire.group_reports import (
    DrainBroker,
    DrainGroup,
    JobDecoded,
    JobDelayed,
    JobFinished,
    JobStopped,
)
from broker.wire.job import GroupShape, JobState, Stage
from broker.wire.job_view import Lease
from tests.broker.dispatch.scene import PRIORITY_STEP_S, START_S, Scene, preempted, runs
from tests.broker.driver import SPEC

SMALL = GroupShape(world_size=2, num_heads=8)
FOR_LARGE = msgspec.structs.replace(SPEC, ulysses_size=8)


def leave(scene: Scene, lease: Lease) -> list[str]:
    """Have the group leave a run as it was told; return the jobs that it gets then."""
    commands = scene.handle(JobStopped(lease=lease, preempted=True))
    return [run.lease.job_id for run in runs(commands)]


def busy(*priorities: int) -> tuple[Scene, list[Lease]]:
    """Return a scene whose groups run jobs of these priorities, submitted in this order."""
    scene = Scene()
    leases = []
    for name, priority in zip("abcdef", priorities, strict=False):
        scene.group(name)
        leases.append(scene.start(scene.job(priority=priority)))
        scene.now_s += 1.0
    return scene, leases


# --- the order -----------------------------------------------------------------------------------


def test_higher_priorities_come_first_and_equal_ones_in_the_order_of_their_submission() -> None:
    scene = Scene()
    low, first, second, high = (scene.job(priority=priority) for priority in (-1, 0, 0, 1))
    assert scene.positions(high, first, second, low) == [1, 2, 3, 4]
    scene.group()
    assert scene.lease(high).group == "a"


def test_a_level_of_priority_is_worth_so_much_waiting_and_no_more() -> None:
    scene = Scene()
    old = scene.job()
    scene.wait(PRIORITY_STEP_S - 1)
    urgent = scene.job(priority=1)
    scene.wait(2)
    late = scene.job(priority=1)
    assert scene.positions(urgent, old, late) == [1, 2, 3]


def test_a_job_of_the_lowest_priority_is_run_though_urgent_ones_never_cease() -> None:
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job(priority=10))
    patient = scene.job(priority=-10)
    for _ in range(22):
        scene.now_s += PRIORITY_STEP_S
        scene.job(priority=10)
        (run,) = runs(scene.handle(JobDecoded(lease=lease)))
        scene.handle(JobFinished(lease=lease, video="x.mp4"))
        lease = scene.start(run.lease.job_id)
    assert scene.view(patient).state is JobState.SUCCEED


def test_the_order_is_that_of_submission_though_the_clock_was_set_back() -> None:
    """Seen to fail with the times of the journal taken as they are."""
    scene = Scene(now_s=START_S)
    first = scene.job()
    scene.now_s -= 500.0  # as the next life of the broker finds it
    behind = Scene(scene.journal.values(), now_s=scene.now_s)
    second = behind.job()
    ahead = Scene(behind.journal.values(), now_s=START_S + 500.0)
    assert ahead.positions(first, second) == [1, 2]


def test_the_priority_outlives_the_broker() -> None:
    scene = Scene()
    low, high = scene.job(), scene.job(priority=3)
    again = Scene(scene.journal.values())
    assert again.positions(high, low) == [1, 2]
    assert again.dispatcher.views(again.now_s)[1].priority == 3


# --- who is sent away ----------------------------------------------------------------------------


def test_the_latest_of_the_less_urgent_runs_leaves_and_comes_back_to_its_place() -> None:
    """Seen to fail with the earliest sent away, and with its place lost."""
    scene, (_, second) = busy(0, 0)
    behind = scene.job()
    scene.now_s += 1.0
    urgent, commands = scene.submit(priority=1)
    assert preempted(commands) == [second]
    assert leave(scene, second) == [urgent]
    assert scene.positions(second.job_id, behind) == [1, 2]
    job = scene.journal[second.job_id]
    assert (job.num_lost, job.due_at, scene.view(job.job_id).state) == (0, 0.0, JobState.IN_QUEUE)
    assert scene.dispatcher.health().ready


def test_of_runs_of_several_priorities_the_one_that_is_furthest_back_leaves() -> None:
    """Seen to fail with the least far of each priority's last ones."""
    scene, (lowest, _) = busy(-1, 0)
    assert preempted(scene.submit(priority=1)[1]) == [lowest]


def test_a_run_that_went_on_has_a_lease_that_was_never_in_force_before() -> None:
    """Seen to fail with the number of the attempt given back, as a planned stop once did: what is
    repeated of the first run is then believed of the second.
    """
    scene, (first,) = busy(0)
    urgent = scene.job(priority=1)
    leave(scene, first)
    scene.finish(scene.start(urgent))
    again = scene.start(first.job_id)
    assert (again.group, again.epoch, again.attempt) == (first.group, first.epoch, 2)
    scene.handle(JobStopped(lease=first, preempted=True))
    assert scene.lease(first.job_id) == again


def test_no_run_leaves_for_one_of_its_own_priority_or_of_a_lower_one() -> None:
    scene, _ = busy(0)
    assert preempted(scene.submit(priority=0)[1]) == []
    assert preempted(scene.submit(priority=-1)[1]) == []


def test_a_run_whose_job_has_waited_for_long_is_not_sent_away() -> None:
    """Seen to fail with the priorities alone compared: the two then take turns."""
    scene, (old,) = busy(0)
    scene.wait(2 * PRIORITY_STEP_S, beats_of="a")
    assert preempted(scene.submit(priority=1)[1]) == []
    assert preempted(scene.submit(priority=3)[1]) == [old]


def test_one_run_leaves_for_each_urgent_job_and_none_for_those_that_a_free_group_takes() -> None:
    """Seen to fail without those counted that are about to leave."""
    scene, (first, second, third) = busy(0, 0, 0)
    assert preempted(scene.submit(priority=1)[1]) == [third]
    assert scene.tick() == []
    assert preempted(scene.submit(priority=1)[1]) == [second]
    scene.group("d")  # takes the first of them
    assert preempted(scene.submit(priority=1)[1]) == []
    assert preempted(scene.submit(priority=1)[1]) == [first]


def test_a_group_that_is_left_anyway_is_waited_for() -> None:
    """Seen to fail with cancelled runs not counted among those that leave."""
    scene, (first, second) = busy(0, 0)
    scene.cancel(first.job_id)
    urgent, commands = scene.submit(priority=1)
    assert preempted(commands) == []
    scene.handle(JobStopped(lease=first))
    assert scene.lease(urgent).group == first.group
    assert scene.lease(second.job_id) == second


def test_a_run_that_decodes_is_not_sent_away() -> None:
    scene, (first,) = busy(0)
    scene.step(first, Stage.DENOISE, 20, 20)
    assert preempted(scene.submit(priority=1)[1]) == []


def test_a_group_that_waits_for_room_on_the_disk_is_of_no_use_to_an_urgent_job() -> None:
    scene, (first,) = busy(0)
    scene.handle(JobDecoded(lease=first))
    scene.start(scene.job())
    scene.handle(JobDelayed(lease=first, reason="the disk is full"))
    assert preempted(scene.submit(priority=1)[1]) == []


def test_only_a_group_that_can_run_the_job_is_taken() -> None:
    scene = Scene(shape=None)
    scene.wait(31)
    scene.group("large")
    large = scene.start(scene.job())
    scene.now_s += 1.0
    scene.group("small", shape=SMALL)
    small = scene.start(scene.job())
    _, commands = scene.submit(FOR_LARGE, priority=1)
    assert preempted(commands) == [large]
    assert preempted(scene.submit(priority=1)[1]) == [small]


def test_a_draining_broker_sends_nobody_away_and_a_leaving_group_is_not_asked() -> None:
    scene, _ = busy(0)
    scene.handle(DrainGroup(group="a", epoch=1))
    assert preempted(scene.submit(priority=1)[1]) == []
    scene, _ = busy(0)
    scene.handle(DrainBroker())
    assert preempted(scene.tick()) == []


# --- what may come between -----------------------------------------------------------------------


def test_a_cancel_wins_over_the_preemption() -> None:
    scene, (first,) = busy(0)
    urgent = scene.job(priority=1)
    scene.cancel(first.job_id)
    assert leave(scene, first) == [urgent]
    assert scene.view(first.job_id).state is JobState.CANCELLED


def test_a_run_that_ends_by_itself_frees_the_group_as_well() -> None:
    scene, (first,) = busy(0)
    urgent = scene.job(priority=1)
    (run,) = runs(scene.handle(JobDecoded(lease=first)))
    assert run.lease.job_id == urgent
    scene.finish(first)
    assert scene.view(first.job_id).state is JobState.SUCCEED


def test_a_group_that_dies_while_it_leaves_costs_an_attempt() -> None:
    scene, (first,) = busy(0)
    scene.job(priority=1)
    scene.gone()
    assert scene.journal[first.job_id].num_lost == 1


def test_a_group_that_stops_while_it_leaves_gets_no_job() -> None:
    scene, (first,) = busy(0)
    scene.job(priority=1)
    assert runs(scene.handle(JobStopped(lease=first))) == []
    assert scene.journal[first.job_id].num_lost == 0


def test_who_was_not_heard_is_told_again() -> None:
    """Seen to fail without the repetition: the urgent job then waits for the run's own end."""
    scene, (first,) = busy(0)
    scene.job(priority=1)
    assert preempted(scene.group(running=[first])) == [first]


def test_a_broker_that_was_restarted_meanwhile_gives_the_job_back_all_the_same() -> None:
    """Seen to fail with the group taken for one that stops, since this broker has told it nothing
    (`JobStopped.preempted`).
    """
    scene, (first,) = busy(0)
    urgent = scene.job(priority=1)
    again = Scene(scene.journal.values())
    again.handle(JobStopped(lease=first, preempted=True))
    again.group()
    assert again.lease(urgent).group == "a"
    assert again.journal[first.job_id].num_lost == 0


def test_a_group_whose_urgent_job_was_cancelled_goes_on_with_the_job_that_it_left() -> None:
    scene, (first,) = busy(0)
    urgent = scene.job(priority=1)
    scene.cancel(urgent)
    assert leave(scene, first) == [first.job_id]
