"""The lives of groups: when one is over, when one is killed, and what a restart finds."""

from broker.dispatch.commands import ToGroup
from broker.wire.job import JobState
from broker.wire.protocol import (
    CancelRun,
    GroupStarted,
    JobDecoded,
    JobDelayed,
    JobStopped,
)
from tests.broker.dispatch.scene import Scene, find, kills, runs


def test_nothing_is_requeued_while_the_group_may_still_live() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    assert kills(scene.wait(3600))
    assert scene.view(job_id).state is JobState.IN_PROGRESS


def test_a_new_life_of_a_group_proves_that_the_last_one_is_over() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.handle(GroupStarted(group="a", epoch=2, world_size=8))
    assert scene.view(job_id).state is JobState.IN_QUEUE


def test_a_life_that_is_over_is_not_heard_any_more() -> None:
    scene = Scene()
    scene.group(epoch=2)
    job_id = scene.job()
    scene.start(job_id)
    scene.gone(epoch=1)
    scene.group(epoch=1)
    assert scene.view(job_id).state is JobState.IN_PROGRESS
    scene.gone(epoch=2)
    assert runs(scene.group(epoch=2)) == []


# --- kills ---------------------------------------------------------------------------------------


def test_a_group_that_does_not_take_its_job_in_five_seconds_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    assert kills(scene.wait(5, beats_of="a")) == []
    (kill,) = kills(scene.wait(1, beats_of="a"))
    assert (kill.group, kill.epoch) == ("a", 1)
    assert kill.reason == f"job {job_id}: not taken within 5 s"


def test_a_group_that_does_not_leave_a_cancelled_run_in_thirty_seconds_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.cancel(job_id)
    assert kills(scene.wait(30, beats_of="a")) == []
    (kill,) = kills(scene.wait(1, beats_of="a"))
    assert kill.reason == f"job {job_id}: cancelled, but not left within 30 s"
    scene.gone()
    assert scene.view(job_id).state is JobState.CANCELLED


def test_a_group_that_says_no_more_of_a_waiting_video_is_killed() -> None:
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job())
    scene.handle(JobDecoded(lease=lease))
    scene.wait(50, beats_of="a")
    scene.handle(JobDelayed(lease=lease, reason="the disk is full"))
    assert kills(scene.wait(60, beats_of="a")) == []
    (kill,) = kills(scene.wait(1, beats_of="a"))
    assert kill.reason.endswith("its video not written within 60 s")


def test_a_group_that_should_be_dead_takes_no_job_and_is_killed_again() -> None:
    scene = Scene()
    scene.group()
    scene.wait(11)
    assert kills(scene.wait(9)) == []
    assert len(kills(scene.wait(2))) == 1
    _, commands = scene.submit()
    assert runs(commands) == []


# --- restart -------------------------------------------------------------------------------------


def test_a_restarted_broker_requeues_when_the_group_is_gone() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    again = scene.restarted()
    again.gone()
    assert again.view(job_id).state is JobState.IN_QUEUE


def test_a_restarted_broker_requeues_when_the_group_has_a_new_life() -> None:
    scene = Scene()
    scene.group(epoch=5)
    job_id = scene.job()
    scene.start(job_id)
    for epoch in (4, 6):
        again = scene.restarted()
        again.group(epoch=epoch)
        (run,) = runs(again.let_due())
        assert (run.lease.job_id, run.lease.attempt, run.lease.epoch) == (job_id, 2, epoch)


def test_a_group_that_has_lost_the_run_of_the_journal_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    again = scene.restarted()
    again.group()
    assert kills(again.wait(5, beats_of="a")) == []
    assert len(kills(again.wait(1, beats_of="a"))) == 1
    assert again.journal[job_id].state is JobState.IN_PROGRESS


def test_a_run_that_was_cancelled_before_the_restart_is_left() -> None:
    scene = Scene()
    scene.group()
    cancelled, waiting = scene.job(), scene.job()
    lease = scene.start(cancelled)
    scene.cancel(cancelled)
    again = scene.restarted()
    commands = again.group(running=[lease])
    assert [command.message for command in find(commands, ToGroup)] == [CancelRun(lease=lease)]
    (run,) = runs(again.handle(JobStopped(lease=lease)))
    assert run.lease.job_id == waiting
