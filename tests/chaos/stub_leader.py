"""Rank 0 of a stub group: it speaks the real protocol and takes the faults of a test."""

import asyncio
import mmap
import os
import struct
from pathlib import Path

from broker.wire.group_commands import RunJob
from broker.wire.group_reports import JobDecoded, JobFinished, JobStarted
from broker.wire.job import Stage
from broker.wire.job_view import Lease
from broker.wire.model_profile import ModelProfile
from broker.wire.rank_messages import Heartbeat, StepDone
from ranks.config import RankConfig
from tests.chaos.ledger import Ledger
from tests.chaos.stub_settings import Faults, StubSettings
from tests.stub_group import StubConfig, StubGroup

SLOWER = 5
SAVE_POINTS = ("write", "fsync", "rename", "fsync-folder", "report")
"""Each point is right before the operation it names; at `write`, half of the file is written."""
_STAGES = list(Stage)


def video_of(job_id: str) -> bytes:
    """Return the content of a job's fake video."""
    return f"video of {job_id}\n".encode() * 2000


class Activity:
    """What the group is doing, in memory that all its ranks share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 32)
        self.write(Stage.LOAD, 0, 0)

    def write(self, stage: Stage, step: int, num_done: int, is_leaving: bool = False) -> None:
        struct.pack_into("4q", self._memory, 0, _STAGES.index(stage), step, num_done, is_leaving)

    def leave(self) -> None:
        self.write(Stage.IDLE, 0, 0, is_leaving=True)

    @property
    def is_leaving(self) -> bool:
        """Whether the ranks must exit."""
        return bool(struct.unpack_from("4q", self._memory)[3])

    def heartbeat(self, config: RankConfig, rank: int) -> Heartbeat:
        stage, step, num_done, _ = struct.unpack_from("4q", self._memory)
        return Heartbeat(
            group=config.group,
            epoch=config.epoch,
            rank=rank,
            pid=os.getpid(),
            device="stub",
            stage=_STAGES[stage],
            step=step,
            num_done=num_done,
            memory_bytes=0,
        )


class Leader(StubGroup):
    """A stub group that sends only the heartbeats of rank 0, and writes the ledger."""

    def __init__(
        self, config: RankConfig, settings: StubSettings, activity: Activity, ledger: Ledger
    ) -> None:
        super().__init__(
            StubConfig(
                addresses=config.addresses,
                videos_dir=f"{config.store}/videos",
                group=config.group,
                epoch=config.epoch,
                world_size=config.world_size,
                model=ModelProfile(name=config.model_name),
                beat_every_s=settings.beat_every_s,
                with_launcher=False,
            )
        )
        self._rank_config = config
        self._settings = settings
        self._activity = activity
        self._ledger = ledger
        self._faults = Faults(Path(settings.folder))
        self._step_s = settings.step_s

    async def beat(self, step: int | None = None) -> None:
        """Send the heartbeat of rank 0."""
        await self._publish(self._activity.heartbeat(self._rank_config, 0))

    async def pass_by(self, point: str) -> None:
        """Take the fault at a point, if there is one."""
        match self._faults.take(point):
            case "die":
                os._exit(139)
            case "hold":
                await asyncio.Event().wait()
            case "slow":
                self._step_s = SLOWER * self._settings.step_s
            case _:
                pass

    def show(self, stage: Stage, step: int = 0) -> None:
        """Set the stage of every rank, and count one more finished item."""
        self._num_done += 1
        self._activity.write(stage, step, self._num_done)

    async def _run(self, command: RunJob) -> None:
        lease = command.lease
        attempt = {"job_id": lease.job_id, "attempt": lease.attempt}
        self.running[lease.job_id] = self._leavable = lease
        self._step_s = self._settings.step_s
        self._ledger.write("started", **attempt, survivors=self._ledger.survivors(lease.job_id))
        await self.say(JobStarted(lease=lease))
        try:
            await self._compute(lease)
            await self.say(JobDecoded(lease=lease))
            await asyncio.sleep(
                self._settings.step_s
            )  # saving takes time, in which the report is sent
            await self._save(lease)
        finally:
            self._ledger.write("ended", **attempt)
        await self._end_run(JobFinished(lease=lease, video=f"{lease.job_id}.mp4"))

    async def _compute(self, lease: Lease) -> None:
        try:
            await self._work(lease, Stage.ENCODE, 1)
            await self._work(lease, Stage.DENOISE, self._settings.num_steps)
            self._leavable = None
            await self._work(lease, Stage.DECODE, 2)
        finally:
            self.show(Stage.IDLE)

    async def _work(self, lease: Lease, stage: Stage, num_steps: int) -> None:
        self.show(stage)
        for step in range(1, num_steps + 1):
            await self.pass_by(stage.value)
            await asyncio.sleep(self._step_s)
            self._ledger.write("worked", job_id=lease.job_id, attempt=lease.attempt)
            self.show(stage, step)
            await self._publish(StepDone(lease=lease, stage=stage, step=step, num_steps=num_steps))

    async def _save(self, lease: Lease) -> None:
        """Write the video as the real rank 0 does; a fault is possible at each point."""
        folder = Path(self.config.videos_dir)
        partial = folder / ".partial" / f"{lease.job_id}.{lease.attempt}.mp4"
        content = video_of(lease.job_id)
        with partial.open("wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            await self.pass_by("write")
            file.write(content[len(content) // 2 :])
            await self.pass_by("fsync")
            os.fsync(file.fileno())
        await self.pass_by("rename")
        partial.rename(folder / f"{lease.job_id}.mp4")
        await self.pass_by("fsync-folder")
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        await self.pass_by("report")
