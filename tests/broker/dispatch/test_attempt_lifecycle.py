"""What becomes of a job when its attempt finishes, fails, stops, waits or is lost."""

import pytest

from broker.dispatch.commands import DropVideo
from broker.wire.errors import ErrorCode, ResultWarning
from broker.wire.group_reports import (
    DrainBroker,
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.job import JobState, Stage
from broker.wire.job_view import Lease
from tests.broker.dispatch.scene import Scene, find, kill_commands, run_commands


def test_a_finished_job_has_succeeded() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.finish(scene.start(job_id))
    view = scene.view(job_id)
    assert (view.state, view.progress, view.video) == (JobState.SUCCEED, 1.0, f"{job_id}.mp4")
    assert view.stage is None
    assert view.eta_s is None


def test_a_warning_about_the_video_is_kept_with_the_job() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease, warning = scene.start(job_id), ResultWarning.SINGLE_COLOUR
    scene.handle(JobFinished(lease=lease, video=f"{job_id}.mp4", warning=warning))
    view = scene.view(job_id)
    assert (view.state, view.warning) == (JobState.SUCCEED, warning)


def test_a_decoded_job_frees_the_group_and_stays_in_progress_until_its_video_is_saved() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    (run,) = run_commands(scene.handle(JobDecoded(lease=lease)))
    assert run.lease.job_id == second
    assert scene.view(first).state is JobState.IN_PROGRESS
    assert scene.view(first).stage is Stage.SAVE
    scene.handle(JobFinished(lease=lease, video=f"{first}.mp4"))
    assert scene.view(first).state is JobState.SUCCEED


def test_a_failed_attempt_fails_the_job_and_frees_the_group() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    commands = scene.handle(
        JobFailed(lease=lease, code=ErrorCode.OUT_OF_MEMORY, reason="too large" * 1000)
    )
    view = scene.view(first)
    assert (view.state, view.error_code) == (JobState.FAILED, ErrorCode.OUT_OF_MEMORY)
    assert view.reason is not None
    assert len(view.reason) == 500
    assert [run.lease.job_id for run in run_commands(commands)] == [second]


@pytest.mark.parametrize(
    "changes",
    [
        {"group": "b"},
        {"epoch": 0},
        {"epoch": 2},
        {"attempt": 2},
        {"attempt": 0},
        {"job_id": "f" * 32},
    ],
)
def test_a_report_with_another_lease_changes_nothing(changes: dict[str, str | int]) -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    before = scene.view(job_id)
    wrong = Lease(**{
        "group": lease.group, "epoch": lease.epoch, "job_id": job_id, "attempt": 1, **changes
    })  # type: ignore[arg-type]  # fmt: skip
    for report in (
        JobStarted(lease=wrong),
        JobDecoded(lease=wrong),
        JobFinished(lease=wrong, video="x.mp4"),
        JobFailed(lease=wrong, code=ErrorCode.RUN_FAILED, reason="x"),
        JobStopped(lease=wrong),
    ):
        assert scene.handle(report) == []
    assert scene.step(wrong, Stage.DENOISE, 1, 20) == []
    assert scene.view(job_id) == before


def test_the_length_of_a_prompt_is_published_when_its_attempt_starts() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.lease(job_id)
    scene.handle(JobStarted(lease=lease, prompt_tokens=700))
    assert scene.view(job_id).prompt_tokens == 700


def test_a_second_report_of_an_end_changes_nothing() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    scene.finish(lease)
    assert scene.handle(JobFailed(lease=lease, code=ErrorCode.RUN_FAILED, reason="late")) == []
    assert scene.view(job_id).state is JobState.SUCCEED


# --- lost attempts -------------------------------------------------------------------------------


def test_a_lost_group_loses_both_the_attempt_it_saves_and_the_one_it_computes() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    scene.handle(JobDecoded(lease=scene.start(first)))
    scene.start(second)
    scene.lose_group()
    assert scene.positions(first, second) == [1, 2]


def test_a_job_whose_attempt_was_lost_keeps_its_queue_position() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    scene.start(first)
    scene.lose_group()
    assert scene.positions(first, second) == [1, 2]
    scene.wait_out_retry_pause()
    (run,) = run_commands(scene.group(epoch=2))
    assert (run.lease.job_id, run.lease.attempt, run.lease.epoch) == (first, 2, 2)


def test_a_job_waits_five_seconds_after_one_lost_attempt_and_thirty_after_two() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    for epoch, pause_s in ((1, 5), (2, 30)):
        scene.start(job_id)
        scene.lose_group(epoch=epoch)
        scene.group(epoch=epoch + 1)
        scene.wait(pause_s - 1, heartbeats_of="a", epoch=epoch + 1)
        assert scene.view(job_id).queue_position == 1
        scene.wait(1, heartbeats_of="a", epoch=epoch + 1)
        assert scene.lease(job_id).attempt == epoch + 1


def test_other_jobs_run_while_one_waits_after_a_lost_attempt() -> None:
    scene = Scene()
    scene.group()
    lost, others = scene.job(), [scene.job(), scene.job()]
    scene.start(lost)
    scene.lose_group()
    scene.group(epoch=2)
    for job_id in others:
        scene.finish(scene.start(job_id))
        assert scene.view(job_id).state is JobState.SUCCEED
    assert scene.view(lost).queue_position == 1
    (run,) = run_commands(scene.wait_out_retry_pause())
    assert run.lease.job_id == lost


def test_the_third_lost_attempt_fails_the_job_and_the_next_one_runs() -> None:
    scene = Scene()
    failing, following = scene.job(), scene.job()
    for epoch in (1, 2, 3):
        scene.group(epoch=epoch)
        assert scene.start(failing).attempt == epoch
        scene.lose_group(epoch=epoch)
        scene.wait_out_retry_pause()
    view = scene.view(failing)
    assert (view.state, view.error_code) == (JobState.FAILED, ErrorCode.GROUP_LOST)
    assert view.attempt == 3
    scene.group(epoch=4)
    scene.finish(scene.start(following))
    assert scene.view(following).state is JobState.SUCCEED


# --- planned stops -------------------------------------------------------------------------------


def test_a_planned_stop_requeues_the_job_and_does_not_count_as_a_lost_attempt() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    commands = scene.handle(JobStopped(lease=scene.start(job_id)))
    assert run_commands(commands) == []
    assert (scene.view(job_id).state, scene.journal[job_id].num_lost) == (JobState.IN_QUEUE, 0)
    scene.lose_group()
    (run,) = run_commands(scene.group(epoch=2))
    assert (run.lease.job_id, run.lease.attempt) == (job_id, 2)
    for epoch in range(2, 5):
        assert scene.view(job_id).state is JobState.IN_PROGRESS
        scene.lose_group(epoch=epoch)
        scene.wait_out_retry_pause()
        scene.group(epoch=epoch + 1)
    assert scene.view(job_id).error_code is ErrorCode.GROUP_LOST
    assert scene.view(job_id).reason == "the ranks died or hung during the run (3 attempts)"


def test_a_group_killed_during_a_drain_does_not_count_as_a_lost_attempt() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.handle(DrainBroker())
    scene.lose_group()
    assert (scene.view(job_id).state, scene.journal[job_id].num_lost) == (JobState.IN_QUEUE, 0)


# --- attempts that wait --------------------------------------------------------------------------


def test_a_group_whose_video_waits_for_disk_space_takes_no_further_job_and_is_not_killed() -> None:
    """Otherwise finished videos would pile up in memory."""
    scene = Scene()
    scene.group()
    first, second, third = scene.job(), scene.job(), scene.job()
    lease = scene.start(first)
    scene.handle(JobDecoded(lease=lease))
    scene.handle(JobDelayed(lease=lease, reason="the disk is full"))
    scene.finish(scene.start(second))
    for _ in range(10):
        assert kill_commands(scene.wait(30, heartbeats_of="a")) == []
        scene.handle(JobDelayed(lease=lease, reason="the disk is full"))
    view = scene.view(first)
    assert (view.state, view.stage, view.reason) == (
        JobState.IN_PROGRESS, Stage.SAVE, "the disk is full",
    )  # fmt: skip
    assert scene.journal[third].state is JobState.IN_QUEUE
    (run,) = run_commands(scene.handle(JobFinished(lease=lease, video=f"{first}.mp4")))
    assert run.lease.job_id == third
    view = scene.view(first)
    assert (view.state, view.attempt, view.reason) == (JobState.SUCCEED, 1, None)


def test_an_attempt_that_waits_for_its_image_is_not_hung_and_finishes_like_any_other() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    for _ in range(10):
        assert kill_commands(scene.wait(30, heartbeats_of="a")) == []
        scene.handle(JobDelayed(lease=lease, reason="the store cannot be reached"))
    assert scene.view(first).reason == "the store cannot be reached"
    scene.step(lease, Stage.ENCODE, 1, 8)
    assert scene.view(first).reason is None
    (run,) = run_commands(scene.handle(JobDecoded(lease=lease)))
    assert run.lease.job_id == second


# --- cancelled attempts --------------------------------------------------------------------------


def test_a_job_stays_cancelled_even_if_its_attempt_finishes() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    scene.cancel(job_id)
    scene.handle(JobDecoded(lease=lease))
    commands = scene.handle(JobFinished(lease=lease, video=f"{job_id}.mp4"))
    assert commands == [DropVideo(job_id)]
    assert scene.view(job_id).state is JobState.CANCELLED


def test_files_saved_by_a_cancelled_attempt_are_removed() -> None:
    """An object store may hold the stills of a video that never arrives."""
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job())
    scene.handle(JobDecoded(lease=lease))
    scene.cancel(lease.job_id)
    assert find(scene.handle(JobStopped(lease=lease)), DropVideo) == [DropVideo(lease.job_id)]
