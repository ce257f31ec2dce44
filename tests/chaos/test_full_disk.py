"""A whole server whose disk fills up during a job: it waits, reports it, and loses nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ranks.media.video_writer import NO_ROOM
from tests.chaos.server import chaos_server
from tests.running_server import calling
from tests.small_disk import fill, small_disk, use_up_inodes

DISK_KIB = 100 << 10
NUM_INODES = 500


@pytest.mark.full
@pytest.mark.parametrize("use_up", [fill, use_up_inodes])
async def test_a_job_waits_for_a_full_disk_and_succeeds(
    tmp_path: Path, use_up: Callable[[Path], Path]
) -> None:
    with small_disk(tmp_path / "d", DISK_KIB, NUM_INODES) as disk:
        async with (
            chaos_server(disk, ranks_module="ranks") as server,
            calling(server.life) as caller,
        ):
            job_id = await caller.submit()
            await caller.wait_for(job_id, stage="denoise")
            ballast = use_up(disk)
            await caller.wait_for(job_id, status="InProgress", stage="save", reason=NO_ROOM)
            shutil.rmtree(ballast) if ballast.is_dir() else ballast.unlink()
            done = await caller.wait_for(job_id, status="Succeed")
            assert (done["attempt"], done["reason"]) == (1, None)
            assert await server.life.stop() == 0
