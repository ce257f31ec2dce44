"""The lives of groups: when one is over, when one is killed, and what a restart finds."""

from broker.dispatch.commands import ToGroup
from broker.wire.group_commands import CancelRun
from broker.wire.group_reports import GroupStarted, JobDecoded, JobDelayed, JobStopped
from broker.wire.job import JobState
from tests.broker.dispatch.scene import Scene, find, kill_commands, run_commands


def test_no_job_is_requeued_while_its_group_may_still_run() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    assert kill_commands(scene.wait(3600))
    assert scene.view(job_id).state is JobState.IN_PROGRESS


def test_a_new_life_of_a_group_ends_the_one_before() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.handle(GroupStarted(group="a", epoch=2, world_size=8))
    assert scene.view(job_id).state is JobState.IN_QUEUE


def test_reports_of_a_life_that_is_over_are_ignored() -> None:
    scene = Scene()
    scene.group(epoch=2)
    job_id = scene.job()
    scene.start(job_id)
    scene.lose_group(epoch=1)
    scene.group(epoch=1)
    assert scene.view(job_id).state is JobState.IN_PROGRESS
    scene.lose_group(epoch=2)
    assert run_commands(scene.group(epoch=2)) == []


# --- kills ---------------------------------------------------------------------------------------


def test_a_group_that_does_not_start_its_job_within_five_seconds_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    assert kill_commands(scene.wait(5, heartbeats_of="a")) == []
    (kill,) = kill_commands(scene.wait(1, heartbeats_of="a"))
    assert (kill.group, kill.epoch) == ("a", 1)
    assert kill.reason == f"job {job_id}: not taken within 5 s"


def test_a_group_that_does_not_leave_a_cancelled_attempt_within_thirty_seconds_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.cancel(job_id)
    assert kill_commands(scene.wait(30, heartbeats_of="a")) == []
    (kill,) = kill_commands(scene.wait(1, heartbeats_of="a"))
    assert kill.reason == f"job {job_id}: cancelled, but not left within 30 s"
    scene.lose_group()
    assert scene.view(job_id).state is JobState.CANCELLED


def test_a_group_that_stops_reporting_a_delayed_video_is_killed() -> None:
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job())
    scene.handle(JobDecoded(lease=lease))
    scene.wait(50, heartbeats_of="a")
    scene.handle(JobDelayed(lease=lease, reason="the disk is full"))
    assert kill_commands(scene.wait(60, heartbeats_of="a")) == []
    (kill,) = kill_commands(scene.wait(1, heartbeats_of="a"))
    assert kill.reason.endswith("its video not written within 60 s")


def test_a_group_that_survives_a_kill_takes_no_job_and_is_killed_again() -> None:
    scene = Scene()
    scene.group()
    scene.wait(11)
    assert kill_commands(scene.wait(9)) == []
    assert len(kill_commands(scene.wait(2))) == 1
    _, commands = scene.submit()
    assert run_commands(commands) == []


# --- restart -------------------------------------------------------------------------------------


def test_a_restarted_broker_requeues_the_job_of_a_group_that_is_gone() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    restarted = scene.restarted()
    restarted.lose_group()
    assert restarted.view(job_id).state is JobState.IN_QUEUE


def test_a_restarted_broker_requeues_the_job_of_a_group_in_another_life() -> None:
    scene = Scene()
    scene.group(epoch=5)
    job_id = scene.job()
    scene.start(job_id)
    for epoch in (4, 6):
        restarted = scene.restarted()
        restarted.group(epoch=epoch)
        (run,) = run_commands(restarted.wait_out_retry_pause())
        assert (run.lease.job_id, run.lease.attempt, run.lease.epoch) == (job_id, 2, epoch)


def test_a_group_that_does_not_know_its_attempt_in_the_journal_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    restarted = scene.restarted()
    restarted.group()
    assert kill_commands(restarted.wait(5, heartbeats_of="a")) == []
    assert len(kill_commands(restarted.wait(1, heartbeats_of="a"))) == 1
    assert restarted.journal[job_id].state is JobState.IN_PROGRESS


def test_an_attempt_cancelled_before_a_restart_is_cancelled_again() -> None:
    scene = Scene()
    scene.group()
    cancelled, waiting = scene.job(), scene.job()
    lease = scene.start(cancelled)
    scene.cancel(cancelled)
    restarted = scene.restarted()
    commands = restarted.group(running=[lease])
    assert [command.message for command in find(commands, ToGroup)] == [CancelRun(lease=lease)]
    (run,) = run_commands(restarted.handle(JobStopped(lease=lease)))
    assert run.lease.job_id == waiting
