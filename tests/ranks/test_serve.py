"""Real groups of ranks on the broker's real sockets: jobs, cancels, failures, stops, resumption."""

import os
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from broker.wire.errors import ErrorCode
from broker.wire.group_commands import CancelRun, PreemptRun, Reregister, RunJob
from broker.wire.group_reports import (
    GroupReady,
    JobDecoded,
    JobDelayed,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
)
from broker.wire.job import JobSpec, Stage
from broker.wire.job_view import Lease
from broker.wire.rank_messages import Heartbeat, JobPreview, RankMessage, StepDone
from ranks.sampling.attention_cache import CacheSchedule
from ranks.sampling.checkpoint import load_state
from tests.ranks.conftest import draw_image
from tests.ranks.group_life import GROUP, GroupLife, running_group
from tests.small_disk import fill, small_disk

WORLD_SIZE = 2
SPEC = JobSpec(
    prompt="a lighthouse at sunset", image_size="64*64", num_frames=24, infer_steps=20, seed=3
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life")
    folder.chmod(0o700)
    (folder / "inputs").mkdir()
    draw_image(folder / "inputs" / "sample.png")
    return folder


@pytest.fixture(scope="module")
def group(folder: Path, demo_folder: Path) -> Iterator[GroupLife]:
    with running_group(folder, demo_folder, 1, WORLD_SIZE) as group:
        yield group


def new_job(spec: JobSpec = SPEC, image: str = "sample.png", epoch: int = 1) -> RunJob:
    lease = Lease(group=GROUP, epoch=epoch, job_id=secrets.token_hex(16), attempt=1)
    return RunJob(lease=lease, spec=spec, image=image)


def new_image(folder: Path) -> str:
    """Return an image that no rank has encoded yet."""
    name = f"{secrets.token_hex(4)}.png"
    draw_image(folder / "inputs" / name)
    return name


def stop_while_a_video_waits(group: GroupLife, folder: Path) -> None:
    """Check that a stopping group does not wait for room, and keeps the checkpoint."""
    job = new_job(epoch=2)
    with small_disk(folder / "videos", 1024) as disk:
        fill(disk)
        group.send(job)
        group.expect(JobDecoded, job.lease)
        group.expect(JobDelayed, job.lease)
        assert group.stop() == [0] * WORLD_SIZE
        group.expect(JobStopped, job.lease)
    assert (folder / "checkpoints" / f"{job.lease.job_id}.safetensors").exists()


def is_heartbeat_of(rank: int, message: RankMessage) -> bool:
    return isinstance(message, Heartbeat) and message.rank == rank


class Step:
    """Matches the message of one step of a run."""

    def __init__(self, lease: Lease, stage: Stage, step: int) -> None:
        self._expected = lease, stage, step

    def __call__(self, message: RankMessage) -> bool:
        return isinstance(message, StepDone) and self._expected == (
            message.lease,
            message.stage,
            message.step,
        )


def test_a_job_becomes_a_video_and_every_step_is_published(group: GroupLife, folder: Path) -> None:
    job = new_job()
    group.send(job)
    assert group.expect(JobStarted, job.lease).prompt_tokens in range(2, 512)
    for stage, num_steps in ((Stage.ENCODE, 10), (Stage.DENOISE, 20), (Stage.DECODE, 7)):
        for step in range(1, num_steps + 1):
            done = group.expect_published(Step(job.lease, stage, step))
            assert isinstance(done, StepDone)
            assert done.num_steps == num_steps
    group.expect(JobDecoded, job.lease)
    finished = group.expect(JobFinished, job.lease)
    assert finished.video == f"{job.lease.job_id}.mp4"
    assert finished.warning is None
    assert (folder / "videos" / finished.video).stat().st_size > 0
    assert not list((folder / "checkpoints").iterdir())


def test_every_rank_sends_heartbeats_with_its_own_pid(group: GroupLife) -> None:
    for rank, pid in group.pids.items():
        heartbeat = group.expect_published(partial(is_heartbeat_of, rank))
        assert isinstance(heartbeat, Heartbeat)
        assert (heartbeat.pid, heartbeat.device) == (pid, "cpu")
        assert heartbeat.memory_bytes > 0


def test_ranks_on_the_cpu_have_a_lower_priority_than_other_processes(group: GroupLife) -> None:
    for rank, pid in group.pids.items():
        group.expect_published(partial(is_heartbeat_of, rank))
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(usual + 5, 19)


def test_rank_0_publishes_previews_of_the_run(group: GroupLife) -> None:
    job = new_job()
    group.send(job)
    preview = group.expect_published(lambda message: isinstance(message, JobPreview))
    assert isinstance(preview, JobPreview)
    assert preview.lease == job.lease
    assert preview.jpeg.startswith(b"\xff\xd8")
    group.expect(JobFinished, job.lease)


@pytest.mark.parametrize(
    ("stage", "step"), [(Stage.ENCODE, 2), (Stage.DENOISE, 3), (Stage.DECODE, 2)]
)
def test_a_cancelled_run_ends_on_all_ranks_and_the_next_job_succeeds(
    group: GroupLife, folder: Path, stage: Stage, step: int
) -> None:
    job, following = new_job(image=new_image(folder)), new_job()
    group.send(job)
    group.expect_published(Step(job.lease, stage, step))
    group.send(CancelRun(lease=job.lease))
    group.expect(JobStopped, job.lease)
    group.send(following)
    group.expect(JobFinished, following.lease)
    assert not list((folder / "videos").rglob(f"{job.lease.job_id}*"))


def test_a_failed_job_is_reported_and_the_next_one_succeeds(group: GroupLife) -> None:
    job, following = new_job(image="missing.png"), new_job()
    group.send(job)
    failed = group.expect(JobFailed, job.lease)
    assert failed.code is ErrorCode.IMAGE_INVALID
    assert "submit it again" in failed.reason
    group.send(following)
    group.expect(JobFinished, following.lease)


def test_the_next_job_starts_while_the_video_is_saved(group: GroupLife) -> None:
    job, following = new_job(), new_job()
    group.send(job)
    group.expect(JobDecoded, job.lease)
    group.send(following)
    group.expect(JobFinished, following.lease)
    seen = [type(report) for report in group.reports if getattr(report, "lease", None) == job.lease]
    assert seen == [JobStarted, JobDecoded, JobFinished]


def test_a_video_waits_for_room_and_the_delay_is_reported(group: GroupLife, folder: Path) -> None:
    job = new_job()
    with small_disk(folder / "videos", 1024) as disk:
        ballast = fill(disk)
        group.send(job)
        group.expect(JobDecoded, job.lease)
        assert "the disk is full" in group.expect(JobDelayed, job.lease).reason
        ballast.unlink()
        group.expect(JobFinished, job.lease)
        assert (disk / f"{job.lease.job_id}.mp4").stat().st_size > 0


def test_a_cancel_of_a_run_that_has_ended_is_answered(group: GroupLife) -> None:
    lease = new_job().lease
    group.send(CancelRun(lease=lease))
    group.expect(JobStopped, lease)


def test_a_run_of_another_epoch_is_dropped(group: GroupLife) -> None:
    stale, fresh = new_job(epoch=7), new_job()
    group.send(stale)
    group.send(fresh)
    group.expect(JobFinished, fresh.lease)
    assert not any(getattr(report, "lease", None) == stale.lease for report in group.reports)


def test_a_restarted_broker_receives_the_final_reports_and_the_registration(
    group: GroupLife,
) -> None:
    job = new_job()
    group.send(job)
    group.expect(JobFinished, job.lease)
    group.send(Reregister())
    group.expect(JobFinished, job.lease)
    ready = group.expect(GroupReady)
    assert (ready.group, ready.epoch, ready.running) == (GROUP, 1, [])
    assert ready.shape.world_size == WORLD_SIZE


CACHED = msgspec.structs.replace(
    SPEC, infer_steps=60, use_attentioncache=True, attentioncache_interval=7
)


@pytest.mark.parametrize(
    "spec", [msgspec.structs.replace(SPEC, infer_steps=60), CACHED], ids=["plain", "cached"]
)
def test_a_preempted_run_stops_at_once_and_is_resumed_to_an_identical_video(
    group: GroupLife, folder: Path, spec: JobSpec
) -> None:
    """It loses no step, except that the attention cache does not allow resuming at every step."""
    whole, job, urgent = new_job(spec), new_job(spec), new_job()
    group.send(whole)
    group.expect(JobFinished, whole.lease)
    group.send(job)
    group.expect_published(Step(job.lease, Stage.DENOISE, 21))
    group.send(PreemptRun(lease=job.lease))
    assert group.expect(JobStopped, job.lease).preempted
    group.send(urgent)
    group.expect(JobFinished, urgent.lease)
    group.expect_published(Step(urgent.lease, Stage.DENOISE, 20))

    saved = load_state(folder / "checkpoints" / f"{job.lease.job_id}.safetensors")["step"]
    assert saved.item() == latest_start(spec, num_steps_published(group, job.lease))
    lease = msgspec.structs.replace(job.lease, attempt=2)
    group.send(msgspec.structs.replace(job, lease=lease))
    group.expect(JobFinished, lease)
    videos = [folder / "videos" / f"{each.lease.job_id}.mp4" for each in (whole, job)]
    assert videos[0].read_bytes() == videos[1].read_bytes()


def num_steps_published(group: GroupLife, lease: Lease) -> int:
    steps = [each for each in group.published if isinstance(each, StepDone)]
    return max(each.step for each in steps if each.lease == lease and each.stage is Stage.DENOISE)


def latest_start(spec: JobSpec, step: int) -> int:
    """Return the last step up to `step` after which a run can be resumed."""
    schedule = CacheSchedule(
        start=spec.start_step,
        interval=spec.attentioncache_interval,
        end=spec.end_step,
        num_inference_steps=spec.infer_steps,
    )
    is_start = schedule.can_begin_at if spec.use_attentioncache else bool
    return max(number for number in range(1, step + 1) if is_start(number))


def test_a_run_that_is_preempted_while_encoding_starts_over(group: GroupLife, folder: Path) -> None:
    job = new_job(image=new_image(folder))
    group.send(job)
    group.expect_published(Step(job.lease, Stage.ENCODE, 2))
    group.send(PreemptRun(lease=job.lease))
    assert group.expect(JobStopped, job.lease).preempted
    lease = msgspec.structs.replace(job.lease, attempt=2)
    group.send(msgspec.structs.replace(job, lease=lease))
    group.expect(JobFinished, lease)


def test_a_run_that_decodes_ignores_a_preemption(group: GroupLife) -> None:
    job = new_job()
    group.send(job)
    group.expect_published(Step(job.lease, Stage.DECODE, 1))
    group.send(PreemptRun(lease=job.lease))
    group.expect(JobFinished, job.lease)
    group.send(PreemptRun(lease=job.lease))  # an ended run ignores it, too
    following = new_job()
    group.send(following)
    group.expect(JobFinished, following.lease)


def test_a_cancel_wins_over_a_preemption(group: GroupLife, folder: Path) -> None:
    """Otherwise a checkpoint would be kept for a job that is never resumed."""
    job = new_job(msgspec.structs.replace(SPEC, infer_steps=60))
    group.send(job)
    group.expect_published(Step(job.lease, Stage.DENOISE, 7))
    group.send(CancelRun(lease=job.lease))
    group.send(PreemptRun(lease=job.lease))
    assert not group.expect(JobStopped, job.lease).preempted
    assert not list((folder / "checkpoints").glob(f"{job.lease.job_id}*"))


def test_a_stopped_run_is_resumed_by_the_next_epoch_to_an_identical_video(
    group: GroupLife, folder: Path, demo_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = msgspec.structs.replace(SPEC, infer_steps=60)
    whole, job = new_job(spec), new_job(spec)
    group.send(whole)
    group.expect(JobFinished, whole.lease)
    group.send(job)
    group.expect_published(Step(job.lease, Stage.DENOISE, 12))
    codes = group.stop()
    group.expect(JobStopped, job.lease)
    assert codes == [0] * WORLD_SIZE
    assert (folder / "checkpoints" / f"{job.lease.job_id}.safetensors").exists()

    with running_group(folder, demo_folder, 2, WORLD_SIZE) as restarted:
        lease = msgspec.structs.replace(job.lease, epoch=2, attempt=2)
        restarted.send(msgspec.structs.replace(job, lease=lease))
        restarted.expect(JobFinished, lease)
        stop_while_a_video_waits(restarted, folder)
    assert "goes on after step" in capfd.readouterr().err
    videos = [folder / "videos" / f"{each.lease.job_id}.mp4" for each in (whole, job)]
    assert videos[0].read_bytes() == videos[1].read_bytes()
