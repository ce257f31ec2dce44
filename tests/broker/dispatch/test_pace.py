"""The progress and the estimated time left that clients see."""

from itertools import pairwise

import msgspec
import pytest

from broker.dispatch.pace import (
    ATTEMPT_STAGES,
    Pace,
    StageProgress,
    fraction_done,
    typical_work,
)
from broker.wire.group_reports import JobDecoded, JobFinished, JobStarted
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import StepDone
from tests.broker.dispatch.scene import Scene
from tests.broker.driver import SPEC

STEP_S = 2.0


def run_to(scene: Scene, lease: Lease, last_step: int) -> None:
    """Encode in 5 s, then denoise at `STEP_S` a step."""
    scene.handle(JobStarted(lease=lease))
    scene.now_s += 5.0
    scene.step(lease, Stage.ENCODE, 1, 1)
    for step in range(1, last_step + 1):
        scene.now_s += STEP_S
        scene.step(lease, Stage.DENOISE, step, 20)


def run_to_the_end(scene: Scene, job_id: str) -> None:
    """Run a job in 5 + 20 * 2 + 10 + 3 s."""
    lease = scene.lease(job_id)
    run_to(scene, lease, 20)
    for step in (1, 2):
        scene.now_s += 5.0
        scene.step(lease, Stage.DECODE, step, 2)
    scene.handle(JobDecoded(lease=lease))
    scene.now_s += 3.0
    scene.handle(JobFinished(lease=lease, video=f"{job_id}.mp4"))


def test_the_stages_cover_progress_from_zero_to_one_without_a_gap() -> None:
    edges = [(fraction_done(stage, 0, 7), fraction_done(stage, 7, 7)) for stage in ATTEMPT_STAGES]
    assert edges[0][0] == 0.0
    assert edges[-1][1] == 1.0
    for (_, end), (start, _) in pairwise(edges):
        assert end == pytest.approx(start)


def test_each_step_is_published() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    run_to(scene, scene.lease(job_id), 10)
    view = scene.view(job_id)
    assert (view.stage, view.step, view.num_steps) == (Stage.DENOISE, 10, 20)
    assert view.progress == pytest.approx(0.05 + 0.85 / 2)


def test_progress_does_not_go_back_when_a_job_starts_again() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    run_to(scene, scene.lease(job_id), 10)
    reached = scene.view(job_id).progress
    scene.lose_group()
    scene.group(epoch=2)
    scene.wait_out_retry_pause()
    run_to(scene, scene.lease(job_id), 5)
    assert scene.view(job_id).progress == reached
    assert scene.view(job_id).step == 5


def test_a_step_that_arrives_after_the_job_was_decoded_changes_nothing() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    scene.handle(JobDecoded(lease=lease))
    assert scene.step(lease, Stage.DECODE, 2, 2) == []
    assert scene.view(job_id).stage is Stage.SAVE


def test_there_is_no_estimate_before_a_step_was_measured() -> None:
    scene = Scene()
    scene.group()
    running, waiting = scene.job(), scene.job()
    assert scene.view(running).eta_s is None
    assert scene.view(waiting).eta_s is None


def test_there_is_no_estimate_while_a_later_stage_was_never_measured() -> None:
    """Else the first job of a server says 6 s and takes 14."""
    scene = Scene()
    scene.group()
    job_id = scene.job()
    run_to(scene, scene.lease(job_id), 19)
    assert scene.dispatcher.eta_s(job_id, scene.now_s) is None
    (model,) = scene.dispatcher.models().models
    assert model.typical_stage_s == {}


def test_the_stages_of_a_usual_video_are_known_from_any_other() -> None:
    scene = Scene()
    scene.group()
    other = msgspec.structs.replace(SPEC, infer_steps=40)
    run_to_the_end(scene, scene.job(other))
    (model,) = scene.dispatcher.models().models
    pace = Pace()
    for stage, seconds in zip(ATTEMPT_STAGES, (5.0, 40.0, 10.0, 3.0), strict=True):
        pace.keep(other, stage, seconds)
    assert model.typical_stage_s == pytest.approx(pace.stages_s(typical_work(model.profile)))


def test_the_estimate_comes_from_measured_steps() -> None:
    scene = Scene()
    scene.group()
    first, second = scene.job(), scene.job()
    run_to_the_end(scene, first)
    # The group got it three seconds ago, when the first job was decoded.
    assert scene.dispatcher.eta_s(second, scene.now_s) == pytest.approx(58.0 - 3.0)
    run_to(scene, scene.lease(second), 10)
    assert scene.dispatcher.eta_s(second, scene.now_s) == pytest.approx(20 + 10 + 3)
    assert scene.dispatcher.eta_s(second, scene.now_s + 1) == pytest.approx(20 + 10 + 3 - 1)


def test_parts_of_a_long_step_move_the_progress_and_the_estimate() -> None:
    """The first of four steps may take a third of a minute."""
    scene = Scene()
    scene.group()
    run_to_the_end(scene, scene.job())
    job_id = scene.job()
    lease = scene.lease(job_id)
    run_to(scene, lease, 0)
    for part in (0.05, 0.1):
        scene.now_s += 1.0
        scene.handle(StepDone(lease=lease, stage=Stage.DENOISE, step=0, part=part, num_steps=4))
    view = scene.view(job_id)
    assert (view.stage, view.step, view.num_steps) == (Stage.DENOISE, 0, 4)
    assert view.progress == pytest.approx(0.05 + 0.85 * 0.1 / 4)
    assert scene.dispatcher.eta_s(job_id, scene.now_s) == pytest.approx(60.4 * 0.975 + 10 + 3)


@pytest.mark.parametrize(
    ("step", "part", "expected"), [(0, 0.05, 20.0), (1, 0.0, 1.0), (0, 0, None)]
)
def test_the_time_of_a_step_is_known_from_a_part_of_it(
    step: int, part: float, expected: float | None
) -> None:
    """From it follows how long a step may take before the group counts as hung."""
    lease = Lease(group="g0", epoch=1, job_id="a" * 32, attempt=1)
    report = StepDone(lease=lease, stage=Stage.DENOISE, step=step, part=part, num_steps=4)
    found = Pace().step_s(StageProgress(10.0, Stage.DENOISE), report, 11.0)
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_estimate_of_a_waiting_job_includes_the_jobs_ahead() -> None:
    scene = Scene()
    scene.group()
    run_to_the_end(scene, scene.job())
    jobs = [scene.job() for _ in range(3)]
    etas = [scene.dispatcher.eta_s(job, scene.now_s) for job in jobs]
    assert etas == [pytest.approx(58.0 * n) for n in (1, 2, 3)]


def test_the_estimate_includes_the_pause_after_a_lost_attempt() -> None:
    scene = Scene()
    scene.group()
    run_to_the_end(scene, scene.job())
    job_id = scene.job()
    scene.lose_group()
    scene.group(epoch=2)
    assert scene.dispatcher.eta_s(job_id, scene.now_s + 1.0) == pytest.approx(5.0 - 1.0 + 58.0)


def test_a_second_group_halves_the_estimate() -> None:
    scene = Scene()
    scene.group("a")
    run_to_the_end(scene, scene.job())
    scene.group("b")
    jobs = [scene.job() for _ in range(4)]
    etas = [scene.dispatcher.eta_s(job, scene.now_s) for job in jobs]
    assert etas == [pytest.approx(58.0 * n) for n in (1, 1, 2, 2)]


def test_a_job_with_half_the_steps_takes_half_the_time_to_denoise() -> None:
    scene = Scene()
    scene.group()
    run_to_the_end(scene, scene.job(msgspec.structs.replace(SPEC, infer_steps=40)))
    job_id = scene.job()
    assert scene.dispatcher.eta_s(job_id, scene.now_s) == pytest.approx(58.0 - 20.0)


def test_the_estimate_leaves_out_the_steps_that_will_be_skipped() -> None:
    scene = Scene()
    scene.group()
    run_to_the_end(scene, scene.job())
    job_id = scene.job()
    lease = scene.lease(job_id)
    run_to(scene, lease, 10)
    scene.step(lease, Stage.DENOISE, 11, 20, skipped_steps=(10, 13, 15, 17))
    assert scene.dispatcher.eta_s(job_id, scene.now_s) == pytest.approx(6 * STEP_S + 10 + 3)


def test_a_skipped_step_teaches_no_pace() -> None:
    scene = Scene()
    scene.group()
    run_to_the_end(scene, scene.job())
    skipped = tuple(range(10, 20))
    lease = scene.lease(scene.job())
    run_to(scene, lease, 10)
    for step in skipped:
        scene.step(lease, Stage.DENOISE, step + 1, 20, skipped_steps=skipped)
    scene.finish(lease)
    assert scene.dispatcher.eta_s(scene.job(), scene.now_s) == pytest.approx(58.0, abs=3.0)


def test_the_skipped_steps_of_the_latest_attempt_are_published() -> None:
    scene = Scene()
    scene.group()
    job_id = scene.job()
    lease = scene.start(job_id)
    scene.step(lease, Stage.DENOISE, 11, 20, skipped_steps=(10, 13))
    assert scene.view(job_id).skipped_steps == (10, 13)
    scene.step(lease, Stage.DECODE, 1, 2)
    assert scene.view(job_id).skipped_steps == (10, 13)
    scene.lose_group()
    scene.group(epoch=2)
    scene.wait_out_retry_pause()
    scene.start(job_id)
    assert scene.view(job_id).skipped_steps == ()


def test_a_job_whose_guidance_ends_half_way_takes_three_quarters_of_the_time_to_denoise() -> None:
    scene = Scene()
    scene.group()
    run_to_the_end(scene, scene.job())
    job_id = scene.job(msgspec.structs.replace(SPEC, guidance_end=0.5))
    assert scene.dispatcher.eta_s(job_id, scene.now_s) == pytest.approx(58.0 - 10.0)
