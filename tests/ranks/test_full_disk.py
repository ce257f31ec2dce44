"""Videos and saved states on a disk that is really full."""

import queue
from pathlib import Path

import torch

from broker.job import JobSpec
from broker.protocol import ErrorCode, Lease
from ranks.checkpoint import Checkpoint, load_state
from ranks.errors import JobError
from ranks.video import VideoWriter, as_job_error
from tests.small_disk import fill, small_disk

LEASE = Lease(group="group-0", epoch=1, job_id="0" * 32, attempt=1)
SPEC = JobSpec(prompt="snow on a screen", image_size="128*128", num_frames=24)
LIMIT_S = 30.0


def write_video(folder: Path) -> Exception | None:
    """Write a video that hardly compresses; return what went wrong."""
    ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    writer = VideoWriter(LEASE, SPEC, folder, lambda: False, ends.put)
    noise = torch.rand(1, 3, 24, 128, 128, generator=torch.Generator().manual_seed(1))
    try:
        for frames in noise.mul(2.0).sub(1.0).split(4, dim=2):
            writer.add(frames)
    except JobError as error:
        writer.abandon()
        writer.wait(LIMIT_S)
        return error
    writer.finish()
    return ends.get(timeout=LIMIT_S)


def test_a_video_that_does_not_fit_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """Without the look at the encoder's exit code a stump of a video succeeds."""
    with small_disk(tmp_path / "disk", 256) as disk:
        ballast = fill(disk)
        failure = write_video(disk)
        assert failure is not None
        told = as_job_error(failure)
        assert told.code is ErrorCode.SAVE_FAILED
        assert told.reason == "the video could not be saved: the disk is full"
        assert [path for path in disk.rglob("*") if path.is_file()] == [ballast]


def test_a_video_fits_once_there_is_room_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        fill(disk).unlink()
        assert write_video(disk) is None
        assert (disk / f"{LEASE.job_id}.mp4").stat().st_size > 0


def test_a_state_that_does_not_fit_leaves_the_last_one_whole(tmp_path: Path) -> None:
    """Written in place instead of beside it, the last state is a stump."""
    with small_disk(tmp_path / "disk", 256) as disk:
        path = disk / f"{LEASE.job_id}.safetensors"
        checkpoint = Checkpoint(path)
        checkpoint.keep({"latents": torch.ones(16, 1024)})
        checkpoint.keep({"latents": torch.zeros(64, 1024)})
        checkpoint.close()
        assert load_state(path)["latents"].sum() == 16 * 1024
        assert [each.name for each in disk.iterdir()] == [path.name]
