"""The dispatcher as a whole: the order of jobs, draining, restarts."""

import pytest
from msgspec import structs

from broker.dispatch.commands import ReportDrained, SaveJob, ToGroup
from broker.wire.errors import ErrorCode
from broker.wire.group_reports import DrainBroker
from broker.wire.job import JobState, Stage
from broker.wire.replies import Refused
from tests.broker.dispatch.scene import START_S, Scene, find, old_job, reply, run_commands
from tests.broker.driver import IMAGE, SHAPE, SPEC


def test_a_job_waits_until_a_group_is_ready() -> None:
    scene = Scene()
    job_id = scene.job()
    assert scene.view(job_id).queue_position == 1
    (run,) = run_commands(scene.group())
    spec = structs.replace(SPEC, model=SHAPE.model.name)
    assert (run.lease.job_id, run.lease.attempt, run.spec, run.image) == (job_id, 1, spec, IMAGE)
    assert scene.view(job_id).state is JobState.IN_PROGRESS


def test_the_lease_is_saved_before_the_job_is_sent() -> None:
    scene = Scene()
    scene.job()
    kinds = [type(command) for command in scene.group()]
    assert kinds.index(SaveJob) < kinds.index(ToGroup)


def test_the_longest_waiting_job_is_next_and_each_job_has_a_queue_position() -> None:
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


def test_a_draining_broker_starts_and_accepts_no_job_and_reports_when_nothing_runs() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    lease = scene.start(first)
    assert find(scene.handle(DrainBroker()), ReportDrained) == []
    answer = reply(scene.submit()[1])
    assert isinstance(answer, Refused)
    assert answer.code is ErrorCode.UNAVAILABLE
    commands = scene.finish(lease)
    assert run_commands(commands) == []
    assert len(find(commands, ReportDrained)) == 1
    assert scene.view(second).state is JobState.IN_QUEUE
    assert not scene.dispatcher.health().ready


def test_an_idle_broker_reports_itself_drained_at_once() -> None:
    assert find(Scene().handle(DrainBroker()), ReportDrained) == [ReportDrained()]


# --- restart -------------------------------------------------------------------------------------


def test_a_restart_ends_the_pause_after_a_lost_attempt() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    scene.start(job_id)
    scene.lose_group()
    (run,) = run_commands(scene.restarted().group(epoch=2))
    assert (run.lease.job_id, run.lease.attempt) == (job_id, 2)


def test_a_restarted_broker_adopts_a_running_attempt() -> None:
    scene = Scene()
    scene.group()
    running, waiting = scene.job(), scene.job()
    lease = scene.start(running)
    restarted = scene.restarted()
    assert run_commands(restarted.group(running=[lease])) == []
    restarted.wait(20, heartbeats_of="a")
    restarted.step(lease, Stage.DENOISE, 3, 20)
    restarted.finish(lease)
    assert restarted.view(running).state is JobState.SUCCEED
    assert restarted.view(running).attempt == 1
    assert restarted.lease(waiting).job_id == waiting


def test_a_restarted_broker_takes_a_report_before_the_group_registers() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    restarted = scene.restarted()
    restarted.finish(lease)
    assert restarted.view(job_id).state is JobState.SUCCEED


def test_the_order_of_the_queue_survives_a_restart_and_sequence_numbers_rise() -> None:
    scene = Scene()
    first, second = scene.job(), scene.job()
    restarted = scene.restarted()
    assert [job.job_id for job in restarted.dispatcher.jobs()] == [first, second]
    assert restarted.dispatcher.views(START_S)[0].seq > scene.view(first).seq
    third = restarted.job()
    assert restarted.view(third).queue_position == 3


@pytest.mark.parametrize("state", [JobState.IN_QUEUE, JobState.CANCELLED])
def test_after_a_clock_was_set_back_no_job_dates_from_the_future(state: JobState) -> None:
    scene = Scene(restored=[old_job(state, at_s=9e9)])
    (view,) = scene.dispatcher.views(scene.now_s)
    assert view.created_at == view.updated_at == START_S
