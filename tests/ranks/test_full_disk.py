"""Videos and checkpoints on a disk that is really full."""

import errno
import os
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from broker.store.folder import FolderStore
from broker.store.store import VIDEOS, checkpoint_name
from broker.wire.job import JobSpec
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from ranks.errors import GroupStopping, RunCancelled
from ranks.media.video_writer import NO_ROOM, VideoWriter, _is_disk_full
from ranks.sampling.checkpoint import Checkpoint, load_state
from tests.small_disk import fill, small_disk

LEASE = Lease(group="group-0", epoch=1, job_id="0" * 32, attempt=1)
SPEC = JobSpec(prompt="snow on a screen", image_size="128*128", num_frames=24)
LIMIT_S = 30.0


class Writing:
    """A `VideoWriter` that writes a video which hardly compresses."""

    def __init__(self, folder: Path) -> None:
        self.is_cancelled = False
        self.delays: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self.writer = VideoWriter(
            LEASE,
            SPEC,
            ModelProfile(),
            folder / "no image",
            FolderStore(folder),
            lambda: self.is_cancelled,
            self.delays.put,
            lambda failure, _: self.ends.put(failure),
        )
        noise = torch.rand(1, 3, 24, 128, 128, generator=torch.Generator().manual_seed(1))
        for frames in noise.mul(2.0).sub(1.0).split(4, dim=2):
            self.writer.add(frames)
        self.writer.finish()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4096) as mounted:
        FolderStore(mounted).prepare()
        yield mounted


def files(disk: Path) -> list[str]:
    return sorted(path.name for path in disk.rglob("*") if path.is_file())


def test_a_video_is_written_once_a_full_disk_has_room(disk: Path) -> None:
    ballast = fill(disk)
    writing = Writing(disk)
    for _ in range(2):
        assert writing.delays.get(timeout=LIMIT_S) == NO_ROOM
        assert files(disk) == ["ballast"], "a partial video takes room that other jobs need"
    ballast.unlink()
    assert writing.ends.get(timeout=LIMIT_S) is None
    job_id = LEASE.job_id
    assert files(disk) == [f"{job_id}.mp4", f"{job_id}.sprites.webp", f"{job_id}.webp"]
    size = len((disk / VIDEOS / f"{job_id}.mp4").read_bytes())
    assert Writing(disk).ends.get(timeout=LIMIT_S) is None
    assert len((disk / VIDEOS / f"{job_id}.mp4").read_bytes()) == size, (
        "the failed tries lost frames"
    )


def test_a_video_that_waits_for_room_can_be_cancelled(disk: Path) -> None:
    fill(disk)
    writing = Writing(disk)
    writing.delays.get(timeout=LIMIT_S)
    writing.is_cancelled = True
    assert isinstance(writing.ends.get(timeout=LIMIT_S), RunCancelled)


def test_a_stopping_group_does_not_wait_for_room(disk: Path) -> None:
    fill(disk)
    writing = Writing(disk)
    writing.delays.get(timeout=LIMIT_S)
    writing.writer.stop_waiting()
    assert isinstance(writing.ends.get(timeout=LIMIT_S), GroupStopping)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_exhausted_quota_is_a_full_disk(number: int, disk: Path) -> None:
    """ffmpeg reports it with the text of the system's error."""
    assert _is_disk_full(OSError(number, os.strerror(number)))
    assert _is_disk_full(
        OSError(f"ffmpeg ended with 134: Error writing trailer: {os.strerror(number)}")
    )
    assert not _is_disk_full(OSError("ffmpeg ended with 1: Invalid argument"))


def test_a_checkpoint_that_does_not_fit_leaves_the_previous_one_intact(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        store = FolderStore(disk)
        store.prepare()
        path = store.local(checkpoint_name(LEASE.job_id))
        for state in (torch.ones(16, 1024), torch.zeros(64, 1024)):
            # One after the other: of states that wait together, only the last is saved.
            checkpoint = Checkpoint(store, checkpoint_name(LEASE.job_id))
            checkpoint.save({"latents": state})
            checkpoint.close()
        assert load_state(path)["latents"].sum() == 16 * 1024
        assert [each.name for each in path.parent.iterdir()] == [path.name]
