"""Requests that change jobs: submit, cancel, and removal after expiry."""

import pytest

from broker.dispatch.commands import DropInput, DropJob, ToGroup
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import CancelRun
from broker.wire.group_reports import JobStopped
from broker.wire.group_shape import GroupShape
from broker.wire.job import JobState
from broker.wire.replies import JobFound, Refused
from broker.wire.requests import DeleteJob, SubmitJob
from tests.broker.dispatch.scene import START_S, Scene, find, old_job, reply, run_commands
from tests.broker.driver import IMAGE, SPEC


def test_a_repeated_submit_creates_no_second_job() -> None:
    scene = Scene()
    job_id = scene.job()
    answer = reply(scene.handle(SubmitJob(job_id=job_id, spec=SPEC, image=IMAGE)))
    assert isinstance(answer, JobFound)
    assert answer.job.job_id == job_id
    assert scene.dispatcher.health().queued == 1


def test_a_submit_with_the_id_of_another_job_is_refused() -> None:
    scene = Scene()
    job_id = scene.job()
    other = SubmitJob(job_id=job_id, spec=SPEC, image=f"{1:064x}.ppm")
    answer = reply(scene.handle(other))
    assert isinstance(answer, Refused)
    assert (answer.code, answer.field) == (ErrorCode.INVALID_FIELD, "job_id")


def test_a_full_queue_refuses_a_job_and_says_when_to_retry() -> None:
    scene = Scene(max_queue=2)
    scene.job()
    scene.job()
    _, commands = scene.submit()
    answer = reply(commands)
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.QUEUE_FULL
    assert answer.message == "2 jobs wait already; at most 2 may"
    assert answer.retry_after_s == 30


def test_a_job_that_the_journal_refuses_leaves_no_trace() -> None:
    scene = Scene(max_queue=1)
    scene.submit(room=False)
    assert scene.dispatcher.health().queued == 0
    assert list(scene.dispatcher.jobs()) == []
    scene.job()


def test_a_layout_that_no_group_can_run_is_refused_with_its_numbers() -> None:
    spec = type(SPEC)(prompt=SPEC.prompt, cfg_size=2, ulysses_size=8)
    answer = reply(Scene().submit(spec)[1])
    assert isinstance(answer, Refused)
    assert (answer.code, answer.field) == (ErrorCode.UNSUPPORTED_LAYOUT, "ulysses_size")
    assert "cfg_size 2 times ulysses_size 8 is 16" in answer.message


def test_a_waiting_job_fails_once_no_group_turns_out_able_to_run_it() -> None:
    scene = Scene()
    job_id = scene.job(type(SPEC)(prompt=SPEC.prompt, ulysses_size=8))
    scene.group(shape=GroupShape(world_size=4, num_heads=8))
    view = scene.view(job_id)
    assert (view.state, view.error_code) == (JobState.FAILED, ErrorCode.UNSUPPORTED_LAYOUT)


@pytest.mark.parametrize(
    ("job_id", "image"),
    [("../../etc/passwd", IMAGE), ("a" * 31, IMAGE), ("a" * 32, "../" + IMAGE), ("a" * 32, "")],
)
def test_a_file_name_that_could_leave_its_folder_is_refused(job_id: str, image: str) -> None:
    answer = reply(Scene().handle(SubmitJob(job_id=job_id, spec=SPEC, image=image)))
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.INVALID_FIELD


# --- cancel --------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once() -> None:
    scene = Scene()
    job_id, after = scene.job(), scene.job()
    answer = reply(scene.cancel(job_id))
    assert isinstance(answer, JobFound)
    assert answer.job.state is JobState.CANCELLED
    assert scene.positions(after) == [1]
    assert [run.lease.job_id for run in run_commands(scene.group())] == [after]


def test_a_cancelled_job_frees_the_group_once_its_ranks_have_left() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    commands = scene.cancel(first)
    assert [command.message for command in find(commands, ToGroup)] == [CancelRun(lease=lease)]
    assert scene.view(first).state is JobState.CANCELLED
    assert run_commands(commands) == []
    assert (scene.dispatcher.health().running, scene.dispatcher.health().stopping) == (1, 1)
    (run,) = run_commands(scene.handle(JobStopped(lease=lease)))
    assert run.lease.job_id == second
    assert (scene.dispatcher.health().running, scene.dispatcher.health().stopping) == (1, 0)


def test_a_second_cancel_gets_the_same_reply() -> None:
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


# --- expiry --------------------------------------------------------------------------------------


def test_a_job_expires_after_its_ttl_and_its_image_with_the_last_job_that_uses_it() -> None:
    scene = Scene(job_ttl_s=10)
    scene.group()
    first, second = scene.job(), scene.job()
    scene.finish(scene.start(first))
    scene.wait(5, heartbeats_of=["a"])
    scene.finish(scene.start(second))
    commands = scene.wait(5, heartbeats_of=["a"])
    assert (find(commands, DropJob), find(commands, DropInput)) == ([DropJob(first)], [])
    commands = scene.wait(5, heartbeats_of=["a"])
    assert find(commands, DropJob) == [DropJob(second)]
    assert find(commands, DropInput) == [DropInput(IMAGE)]
    assert list(scene.dispatcher.jobs()) == []


def test_the_image_of_a_failed_job_is_kept_as_long_as_the_job() -> None:
    scene = Scene(job_ttl_s=10)
    job_id = scene.job(type(SPEC)(prompt=SPEC.prompt, ulysses_size=8))
    commands = scene.group(shape=GroupShape(world_size=4, num_heads=8))
    assert scene.journal[job_id].state is JobState.FAILED
    assert find(commands, DropInput) == []
    assert find(scene.wait(11), DropInput) == [DropInput(IMAGE)]


def test_only_the_latest_jobs_without_a_video_keep_their_images() -> None:
    """Otherwise a loop of submit and cancel fills the disk."""
    scene = Scene(images_without_video=2, job_ttl_s=10)
    images = [f"{number:064x}.webp" for number in range(1, 5)]
    jobs = [scene.submit(image=image, owner="ann")[0] for image in images]
    scene.cancel(scene.job(owner="bob"))
    dropped = [find(scene.cancel(job_id), DropInput) for job_id in jobs]
    assert dropped == [[], [], [DropInput(images[0])], [DropInput(images[1])]]
    scene.submit(image=images[2])
    assert find(scene.handle(DeleteJob(job_id=jobs[0])), DropInput) == []
    commands = scene.wait(11)
    assert {drop.image for drop in find(commands, DropInput)} == {IMAGE, images[3]}


def test_an_owner_keeps_a_limited_number_of_cancelled_jobs_and_every_video() -> None:
    """Otherwise a loop of submit and cancel fills the memory."""
    scene = Scene(max_without_video=2)
    scene.group()
    finished = scene.job(owner="ann")
    scene.finish(scene.start(finished))
    running = scene.job(owner="ann")
    first, *others = [scene.job(owner="ann") for _ in range(3)]
    other_owner = scene.job(owner="bob")
    for job_id in (first, *others, other_owner):
        scene.cancel(job_id)
    assert find(scene.tick(), DropJob) == [DropJob(first)]
    assert set(scene.journal) == {finished, running, *others, other_owner}


def test_a_waiting_or_running_job_does_not_expire() -> None:
    scene = Scene(job_ttl_s=1)
    scene.group()
    scene.start(scene.job())
    scene.job()
    scene.wait(100, heartbeats_of="a")
    assert len(list(scene.dispatcher.jobs())) == 2


def test_a_finished_job_expires_even_if_the_clock_was_set_back() -> None:
    ended = old_job(JobState.CANCELLED, at_s=9e9)
    scene = Scene(restored=[ended], job_ttl_s=10)
    assert find(scene.wait(10), DropJob) == [DropJob(ended.job_id)]


def test_a_job_that_has_just_ended_is_kept_even_if_the_clock_was_set_forward() -> None:
    ended = old_job(JobState.CANCELLED, at_s=START_S - 50 * 365 * 86_400)
    scene = Scene(restored=[ended])
    assert find(scene.wait(590), DropJob) == []
    assert find(scene.wait(20), DropJob) == [DropJob(ended.job_id)]
