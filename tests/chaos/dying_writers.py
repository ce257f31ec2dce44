"""`python -m tests.chaos.dying_writers FOLDER COUNT`: video writers that die at every point.

Each writer is forked from this process, which imports torch once. It writes a small video with the
real `VideoWriter` and exits right before a given operation. Then the folder must hold only whole
videos, and the next attempt must succeed.
"""

import os
import queue
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from broker.store import folder as folder_store
from broker.store.folder import FolderStore
from broker.store.store import PARTIAL, VIDEOS
from broker.wire.job import JobSpec
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from ranks.media.video_writer import VideoWriter

KILLED = 137
LIMIT_S = 30.0
SPEC = JobSpec(prompt="a cat walks over the grass", image_size="64*64", num_frames=24)
POINTS = ("write", "fsync", "rename", "fsync-folder", "report")


def main(folder: Path, count: int) -> None:
    """Kill `count` writers at each point."""
    partial_videos = 0
    FolderStore(folder).prepare()
    whole = folder / VIDEOS / f"{lease(0, 1).job_id}.mp4"
    assert attempt(folder, lease(0, 1), None) == 0
    expected = whole.read_bytes()
    for number in range(1, count * len(POINTS) + 1):
        path = folder / VIDEOS / f"{lease(number, 1).job_id}.mp4"
        point = POINTS[number % len(POINTS)]
        assert attempt(folder, lease(number, 1), point) == KILLED, point
        assert path.exists() is (point in ("fsync-folder", "report")), point
        partial_videos += path.exists() and path.read_bytes() != expected
        assert attempt(folder, lease(number, 2), None) == 0
        partial_videos += path.read_bytes() != expected
    sys.stdout.write(f"{count * len(POINTS)} deaths, {partial_videos} partial videos\n")


def lease(number: int, attempt: int) -> Lease:
    return Lease(group="g0", epoch=1, job_id=f"{number:032x}", attempt=attempt)


def attempt(folder: Path, lease: Lease, point: str | None) -> int:
    """Write a video in a process that dies at a point; return its exit code."""
    if (pid := os.fork()) == 0:
        write(folder, lease, point)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write(folder: Path, lease: Lease, point: str | None) -> NoReturn:
    """Write a video or die; never return into the loop of the parent process."""
    ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    on_end: Callable[[Exception | None], None] = ends.put
    if point == "report":
        on_end = die
    writer = VideoWriter(
        lease,
        SPEC,
        ModelProfile(),
        folder / "no image",
        FolderStore(folder),
        lambda: False,
        lambda _: None,
        lambda failure, _: on_end(failure),
    )
    if point is not None:
        set_trap(point)
    frames = torch.linspace(-1, 1, 24 * 64 * 64 * 3).reshape(1, 3, 24, 64, 64)
    for part in frames.split(4, dim=2):
        writer.add(part)
    if point == "write":
        die_once_there_is(folder / PARTIAL / f"{lease.job_id}.{lease.attempt}.mp4")
    writer.finish()
    os._exit(0 if ends.get(timeout=LIMIT_S) is None else 1)


def die_once_there_is(path: Path) -> None:
    """Wait until the encoder has made a file, then die."""
    while not path.exists():
        time.sleep(0.002)  # there is no event to await
    die()


def set_trap(point: str) -> None:
    """Replace an operation of saving by death."""
    traps = {
        "fsync": (os, "fsync"),
        "rename": (os, "rename"),
        "fsync-folder": (folder_store, "sync_folder"),
    }
    if point in traps:
        setattr(*traps[point], die)


def die(*_: Any) -> NoReturn:
    os._exit(KILLED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
