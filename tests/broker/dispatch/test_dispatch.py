"""The dispatcher: what it wants done about each event."""

import pytest

from broker.dispatch.commands import DropInput, DropJob, DropVideo, ReportDrained, SaveJob, ToGroup
from broker.dispatch.job_record import Job
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import CancelRun
from broker.wire.group_reports import (
    DrainBroker,
    GroupStarted,
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.job import GroupShape, JobState, Stage
from broker.wire.job_view import Lease
from broker.wire.replies import JobFound, Refused
from broker.wire.requests import SubmitJob
from tests.broker.dispatch.scene import START_S, Scene, find, kills, reply, runs
from tests.broker.driver import IMAGE, SHAPE, SPEC


def test_a_job_waits_until_a_group_is_ready() -> None:
    scene = Scene()
    job_id = scene.job()
    assert scene.view(job_id).queue_position == 1
    (run,) = runs(scene.group())
    assert (run.lease.job_id, run.lease.attempt, run.spec, run.image) == (job_id, 1, SPEC, IMAGE)
    assert scene.view(job_id).state is JobState.IN_PROGRESS


def test_the_lease_is_saved_before_the_job_is_sent() -> None:
    scene = Scene()
    scene.job()
    kinds = [type(command) for command in scene.group()]
    assert kinds.index(SaveJob) < kinds.index(ToGroup)


def test_a_finished_job_has_succeeded() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.finish(scene.start(job_id))
    view = scene.view(job_id)
    assert (view.state, view.progress, view.video) == (JobState.SUCCEED, 1.0, f"{job_id}.mp4")
    assert view.stage is None
    assert view.eta_s is None


def test_the_longest_waiting_job_comes_first_and_each_knows_its_place() -> None:
    scene = Scene()
    first, second, third = scene.job(), scene.job(), scene.job()
    assert scene.positions(first, second, third) == [1, 2, 3]
    scene.group()
    assert scene.positions(first, second, third) == [None, 1, 2]
    scene.finish(scene.start(first))
    assert scene.positions(third) == [1]
    assert scene.lease(second).job_id == second


def test_two_groups_run_two_jobs() -> None:
    scene = Scene()
    first, second = scene.job(), scene.job()
    scene.group("a")
    scene.group("b")
    assert (scene.lease(first).group, scene.lease(second).group) == ("a", "b")


def test_a_decoded_job_frees_the_group_and_stays_in_progress_until_it_is_saved() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    assert [run.lease.job_id for run in runs(scene.handle(JobDecoded(lease=lease)))] == [second]
    assert scene.view(first).state is JobState.IN_PROGRESS
    assert scene.view(first).stage is Stage.SAVE
    scene.handle(JobFinished(lease=lease, video=f"{first}.mp4"))
    assert scene.view(first).state is JobState.SUCCEED


def test_a_lost_group_loses_the_saving_run_and_the_computing_one() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    scene.handle(JobDecoded(lease=scene.start(first)))
    scene.start(second)
    scene.gone()
    assert scene.positions(first, second) == [1, 2]


def test_a_job_comes_back_to_the_front_of_the_queue() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    scene.start(first)
    scene.gone()
    assert scene.positions(first, second) == [1, 2]
    scene.let_due()
    (run,) = runs(scene.group(epoch=2))
    assert (run.lease.job_id, run.lease.attempt, run.lease.epoch) == (first, 2, 2)


def test_a_lost_job_waits_five_seconds_and_then_thirty_for_its_next_attempts() -> None:
    """Seen to fail, as many others, with `due_at` not asked for in `_give_job`."""
    scene = Scene()
    scene.group()
    job_id = scene.job()
    for epoch, pause_s in ((1, 5), (2, 30)):
        scene.start(job_id)
        scene.gone(epoch=epoch)
        scene.group(epoch=epoch + 1)
        scene.wait(pause_s - 1, beats_of="a", epoch=epoch + 1)
        assert scene.view(job_id).queue_position == 1
        scene.wait(1, beats_of="a", epoch=epoch + 1)
        assert scene.lease(job_id).attempt == epoch + 1


def test_other_jobs_go_on_while_one_waits_after_a_lost_attempt() -> None:
    scene = Scene()
    scene.group()
    lost, others = scene.job(), [scene.job(), scene.job()]
    scene.start(lost)
    scene.gone()
    scene.group(epoch=2)
    for job_id in others:
        scene.finish(scene.start(job_id))
        assert scene.view(job_id).state is JobState.SUCCEED
    assert scene.view(lost).queue_position == 1
    (run,) = runs(scene.let_due())
    assert run.lease.job_id == lost


def test_a_restarted_broker_lets_no_job_wait() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.gone()
    (run,) = runs(restarted(scene).group(epoch=2))
    assert (run.lease.job_id, run.lease.attempt) == (job_id, 2)


def test_the_third_lost_attempt_fails_the_job_and_the_queue_goes_on() -> None:
    scene = Scene()
    poison, healthy = scene.job(), scene.job()
    for epoch in (1, 2, 3):
        scene.group(epoch=epoch)
        assert scene.start(poison).attempt == epoch
        scene.gone(epoch=epoch)
        scene.let_due()
    view = scene.view(poison)
    assert (view.state, view.error_code) == (JobState.FAILED, ErrorCode.GROUP_LOST)
    assert view.attempt == 3
    scene.group(epoch=4)
    scene.finish(scene.start(healthy))
    assert scene.view(healthy).state is JobState.SUCCEED


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


@pytest.mark.parametrize(
    "stale",
    [
        {"group": "b"},
        {"epoch": 0},
        {"epoch": 2},
        {"attempt": 2},
        {"attempt": 0},
        {"job_id": "f" * 32},
    ],
)
def test_a_report_with_another_lease_changes_nothing(stale: dict[str, str | int]) -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    before = scene.view(job_id)
    wrong = Lease(**{
        "group": lease.group, "epoch": lease.epoch, "job_id": job_id, "attempt": 1, **stale
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


def test_a_second_end_of_a_run_changes_nothing() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    scene.finish(lease)
    assert scene.handle(JobFailed(lease=lease, code=ErrorCode.RUN_FAILED, reason="late")) == []
    assert scene.view(job_id).state is JobState.SUCCEED


def test_a_group_that_does_not_take_its_job_in_five_seconds_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    assert kills(scene.wait(5, beats_of="a")) == []
    (kill,) = kills(scene.wait(1, beats_of="a"))
    assert (kill.group, kill.epoch) == ("a", 1)
    assert kill.reason == f"job {job_id}: not taken within 5 s"


def test_a_group_that_should_be_dead_takes_no_job_and_is_killed_again() -> None:
    scene = Scene()
    scene.group()
    scene.wait(11)
    assert kills(scene.wait(9)) == []
    assert len(kills(scene.wait(2))) == 1
    _, commands = scene.submit()
    assert runs(commands) == []


def test_a_failed_run_fails_the_job_and_frees_the_group() -> None:
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
    assert [run.lease.job_id for run in runs(commands)] == [second]


def test_a_video_that_waits_for_room_holds_up_the_next_job_and_costs_nothing() -> None:
    """Seen to fail without the look at `delayed`: videos without room pile up in the memory."""
    scene = Scene()
    scene.group()
    first, second, third = scene.job(), scene.job(), scene.job()
    lease = scene.start(first)
    scene.handle(JobDecoded(lease=lease))
    scene.handle(JobDelayed(lease=lease, reason="the disk is full"))
    scene.finish(scene.start(second))
    for _ in range(10):
        assert kills(scene.wait(30, beats_of="a")) == []
        scene.handle(JobDelayed(lease=lease, reason="the disk is full"))
    view = scene.view(first)
    assert (view.state, view.stage, view.reason) == (
        JobState.IN_PROGRESS, Stage.SAVE, "the disk is full",
    )  # fmt: skip
    assert scene.journal[third].state is JobState.IN_QUEUE
    (run,) = runs(scene.handle(JobFinished(lease=lease, video=f"{first}.mp4")))
    assert run.lease.job_id == third
    view = scene.view(first)
    assert (view.state, view.attempt, view.reason) == (JobState.SUCCEED, 1, None)


def test_a_run_that_waits_for_its_image_is_no_hung_one_and_goes_on_like_any_other() -> None:
    """Seen to fail with a reason, or a delay, that outlives what was waited for."""
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    for _ in range(10):
        assert kills(scene.wait(30, beats_of="a")) == []
        scene.handle(JobDelayed(lease=lease, reason="the store cannot be reached"))
    assert scene.view(first).reason == "the store cannot be reached"
    scene.step(lease, Stage.ENCODE, 1, 8)
    assert scene.view(first).reason is None
    (run,) = runs(scene.handle(JobDecoded(lease=lease)))
    assert run.lease.job_id == second


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


# --- cancel --------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once() -> None:
    scene = Scene()
    job_id, after = scene.job(), scene.job()
    answer = reply(scene.cancel(job_id))
    assert isinstance(answer, JobFound)
    assert answer.job.state is JobState.CANCELLED
    assert scene.positions(after) == [1]
    assert [run.lease.job_id for run in runs(scene.group())] == [after]


def test_a_cancelled_job_frees_the_group_only_when_its_ranks_have_left() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    commands = scene.cancel(first)
    assert [command.message for command in find(commands, ToGroup)] == [CancelRun(lease=lease)]
    assert scene.view(first).state is JobState.CANCELLED
    assert runs(commands) == []
    (run,) = runs(scene.handle(JobStopped(lease=lease)))
    assert run.lease.job_id == second


def test_cancel_is_final_also_when_the_run_finishes_nevertheless() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    scene.cancel(job_id)
    scene.handle(JobDecoded(lease=lease))
    commands = scene.handle(JobFinished(lease=lease, video=f"{job_id}.mp4"))
    assert commands == [DropVideo(job_id)]
    assert scene.view(job_id).state is JobState.CANCELLED


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


def test_cancelling_twice_answers_as_the_first_time() -> None:
    scene = Scene()
    job_id = scene.job()
    assert reply(scene.cancel(job_id)) == reply(scene.cancel(job_id))


def test_a_finished_job_cannot_be_cancelled() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.finish(scene.start(job_id))
    answer = reply(scene.cancel(job_id))
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.JOB_FINISHED
    assert answer.message == "the job has ended as Succeed before"


def test_an_unknown_job_cannot_be_cancelled() -> None:
    answer = reply(Scene().cancel("0" * 32))
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.JOB_NOT_FOUND


# --- submit --------------------------------------------------------------------------------------


def test_a_repeated_submit_makes_no_second_job() -> None:
    scene = Scene()
    job_id = scene.job()
    answer = reply(scene.handle(SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE)))
    assert isinstance(answer, JobFound)
    assert answer.job.job_id == job_id
    assert scene.dispatcher.health().queued == 1


def test_an_id_cannot_name_two_jobs() -> None:
    scene = Scene()
    job_id = scene.job()
    other = SubmitJob(job_id=job_id, spec=SPEC, image=f"{1:064x}.ppm")
    answer = reply(scene.handle(other))
    assert isinstance(answer, Refused)
    assert (answer.code, answer.field) == (ErrorCode.INVALID_FIELD, "job_id")


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    scene = Scene(max_queue=2)
    scene.job()
    scene.job()
    _, commands = scene.submit()
    answer = reply(commands)
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.QUEUE_FULL
    assert answer.message == "2 jobs wait already; at most 2 may"
    assert answer.retry_after_s == 30


def test_a_job_that_was_not_stored_leaves_no_trace() -> None:
    scene = Scene(max_queue=1)
    scene.submit(room=False)
    assert scene.dispatcher.health().queued == 0
    assert list(scene.dispatcher.jobs()) == []
    scene.job()


def test_a_layout_that_no_group_has_is_refused_with_its_numbers() -> None:
    spec = type(SPEC)(prompt=SPEC.prompt, cfg_size=2, ulysses_size=8)
    answer = reply(Scene().submit(spec)[1])
    assert isinstance(answer, Refused)
    assert (answer.code, answer.field) == (ErrorCode.UNSUPPORTED_LAYOUT, "ulysses_size")
    assert "cfg_size 2 times ulysses_size 8 is 16" in answer.message


def test_a_waiting_job_that_the_groups_turn_out_unable_to_run_fails() -> None:
    scene = Scene()
    job_id = scene.job(type(SPEC)(prompt=SPEC.prompt, ulysses_size=8))
    scene.group(shape=GroupShape(world_size=4, num_heads=8))
    view = scene.view(job_id)
    assert (view.state, view.error_code) == (JobState.FAILED, ErrorCode.UNSUPPORTED_LAYOUT)


@pytest.mark.parametrize(
    ("job_id", "image"),
    [("../../etc/passwd", IMAGE), ("a" * 31, IMAGE), ("a" * 32, "../" + IMAGE), ("a" * 32, "")],
)
def test_a_name_that_could_leave_its_folder_is_refused(job_id: str, image: str) -> None:
    answer = reply(Scene().handle(SubmitJob(job_id=job_id, spec=SPEC, image=image)))
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.INVALID_FIELD


# --- planned stops -------------------------------------------------------------------------------


def test_a_planned_stop_gives_the_job_back_and_costs_no_chance() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    commands = scene.handle(JobStopped(lease=scene.start(job_id)))
    assert runs(commands) == []
    assert (scene.view(job_id).state, scene.journal[job_id].num_lost) == (JobState.IN_QUEUE, 0)
    scene.gone()
    (run,) = runs(scene.group(epoch=2))
    assert (run.lease.job_id, run.lease.attempt) == (job_id, 2)
    for epoch in range(2, 5):
        assert scene.view(job_id).state is JobState.IN_PROGRESS
        scene.gone(epoch=epoch)
        scene.let_due()
        scene.group(epoch=epoch + 1)
    assert scene.view(job_id).error_code is ErrorCode.GROUP_LOST
    assert scene.view(job_id).reason == "the ranks died or hung during the run (3 attempts)"


def test_a_draining_broker_starts_and_accepts_nothing_and_tells_when_nothing_runs() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    assert find(scene.handle(DrainBroker()), ReportDrained) == []
    answer = reply(scene.submit()[1])
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.UNAVAILABLE
    commands = scene.finish(lease)
    assert runs(commands) == []
    assert len(find(commands, ReportDrained)) == 1
    assert scene.view(second).state is JobState.IN_QUEUE
    assert not scene.dispatcher.health().ready


def test_an_idle_broker_is_drained_at_once() -> None:
    assert Scene().handle(DrainBroker()) == [ReportDrained()]


def test_a_group_that_is_killed_while_draining_costs_no_chance() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.handle(DrainBroker())
    scene.gone()
    assert (scene.view(job_id).state, scene.journal[job_id].num_lost) == (JobState.IN_QUEUE, 0)


# --- expiry --------------------------------------------------------------------------------------


def test_a_job_expires_after_its_time_and_its_image_with_the_last_job_that_used_it() -> None:
    scene = Scene(job_ttl_s=10)
    first, second = scene.job(), scene.job()
    scene.cancel(first)
    scene.wait(5)
    scene.cancel(second)
    commands = scene.wait(5)
    assert (find(commands, DropJob), find(commands, DropInput)) == ([DropJob(first)], [])
    commands = scene.wait(5)
    assert find(commands, DropJob) == [DropJob(second)]
    assert find(commands, DropInput) == [DropInput(IMAGE)]
    assert list(scene.dispatcher.jobs()) == []


def test_a_job_that_waits_or_runs_does_not_expire() -> None:
    scene = Scene(job_ttl_s=1)
    scene.group()
    scene.start(scene.job())
    scene.job()
    scene.wait(100, beats_of="a")
    assert len(list(scene.dispatcher.jobs())) == 2


# --- restart of the broker -----------------------------------------------------------------------


def restarted(scene: Scene) -> Scene:
    return Scene(restored=sorted(scene.journal.values(), key=lambda job: job.number))


def test_a_restarted_broker_adopts_a_run_that_goes_on() -> None:
    scene = Scene()
    scene.group()
    running, waiting = scene.job(), scene.job()
    lease = scene.start(running)
    again = restarted(scene)
    assert runs(again.group(running=[lease])) == []
    again.wait(20, beats_of="a")
    again.step(lease, Stage.DENOISE, 3, 20)
    again.finish(lease)
    assert again.view(running).state is JobState.SUCCEED
    assert again.view(running).attempt == 1
    assert again.lease(waiting).job_id == waiting


def test_a_restarted_broker_believes_a_report_that_comes_before_the_group_has_registered() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    again = restarted(scene)
    again.finish(lease)
    assert again.view(job_id).state is JobState.SUCCEED


def test_a_restarted_broker_requeues_when_the_group_is_gone() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    again = restarted(scene)
    again.gone()
    assert again.view(job_id).state is JobState.IN_QUEUE


def test_a_restarted_broker_requeues_when_the_group_has_a_new_life() -> None:
    scene = Scene()
    scene.group(epoch=5)
    job_id = scene.job()
    scene.start(job_id)
    for epoch in (4, 6):
        again = restarted(scene)
        again.group(epoch=epoch)
        (run,) = runs(again.let_due())
        assert (run.lease.job_id, run.lease.attempt, run.lease.epoch) == (job_id, 2, epoch)


def test_a_group_that_has_lost_the_run_of_the_journal_is_killed() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    again = restarted(scene)
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
    again = restarted(scene)
    commands = again.group(running=[lease])
    assert [command.message for command in find(commands, ToGroup)] == [CancelRun(lease=lease)]
    (run,) = runs(again.handle(JobStopped(lease=lease)))
    assert run.lease.job_id == waiting


def test_the_queue_survives_in_its_order_and_numbers_go_on() -> None:
    scene = Scene()
    first, second = scene.job(), scene.job()
    again = restarted(scene)
    assert [job.job_id for job in again.dispatcher.jobs()] == [first, second]
    assert again.dispatcher.views(START_S)[0].seq > scene.view(first).seq
    third = again.job()
    assert again.view(third).queue_position == 3


def old_job(state: JobState, at_s: float) -> Job:
    return Job(
        number=1, job_id="a" * 32, spec=SPEC, image=IMAGE, created_at=at_s, updated_at=at_s,
        state=state,
    )  # fmt: skip


def test_a_clock_that_was_set_back_does_not_keep_a_finished_job_for_ever() -> None:
    ended = old_job(JobState.CANCELLED, at_s=9e9)
    scene = Scene(restored=[ended], shape=SHAPE, job_ttl_s=10)
    assert find(scene.wait(10), DropJob) == [DropJob(ended.job_id)]


@pytest.mark.parametrize("state", [JobState.IN_QUEUE, JobState.CANCELLED])
def test_a_clock_that_was_set_back_makes_no_job_of_the_future(state: JobState) -> None:
    """Without the bounds in `_restore` a client reads of a job that was made after now."""
    scene = Scene(restored=[old_job(state, at_s=9e9)])
    (view,) = scene.dispatcher.views(scene.now_s)
    assert view.created_at == view.updated_at == START_S


def test_a_clock_that_was_set_forward_does_not_remove_a_job_that_has_just_ended() -> None:
    """Without the grace it is gone with the first tick."""
    ended = old_job(JobState.CANCELLED, at_s=START_S - 50 * 365 * 86_400)
    scene = Scene(restored=[ended])
    assert find(scene.wait(590), DropJob) == []
    assert find(scene.wait(20), DropJob) == [DropJob(ended.job_id)]


def test_what_a_cancelled_run_has_saved_before_it_was_left_is_dropped() -> None:
    """Seen to fail with the files of finished runs dropped only: stills go into a store first."""
    scene = Scene()
    scene.group()
    lease = scene.start(scene.job())
    scene.handle(JobDecoded(lease=lease))
    scene.cancel(lease.job_id)
    assert find(scene.handle(JobStopped(lease=lease)), DropVideo) == [DropVideo(lease.job_id)]
