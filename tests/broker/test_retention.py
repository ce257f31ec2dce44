"""Poster and sprite sheet are kept and removed together with their video."""

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.config import BrokerConfig
from broker.wire.group_commands import RunJob
from broker.wire.job import JobState
from broker.wire.replies import ExpiredRemoved, JobDeleted
from broker.wire.requests import DeleteJob, FrontRequest, RemoveExpired
from tests.broker.driver import Front, broker_config, new_job_id, running_broker
from tests.stub_group import StubConfig, StubGroup

STILLS = (".webp", ".sprites.webp")


def stub(config: BrokerConfig) -> StubGroup:
    videos_dir = str(Path(config.state_dir) / "videos")
    return StubGroup(StubConfig(addresses=config.addresses, videos_dir=videos_dir))


def files_of(job_id: str, config: BrokerConfig) -> set[str]:
    """Return the names of a job's files in `videos/`."""
    folder = Path(config.state_dir) / "videos"
    return {path.name for path in folder.rglob("*") if path.name.startswith(job_id)}


def write_stills(job_id: str, config: BrokerConfig) -> set[str]:
    """Write the stills of a video, as rank 0 does; return their names."""
    folder = Path(config.state_dir) / "videos"
    for ending in STILLS:
        (folder / f"{job_id}{ending}").write_bytes(b"a picture")
    return {f"{job_id}{ending}" for ending in STILLS}


async def finished(group: StubGroup, front: Front, config: BrokerConfig) -> str:
    """Run a job with stills; return its id."""
    group.hold.clear()
    job_id = await front.submit_ok()
    await group.heard(RunJob)
    write_stills(job_id, config)
    await front.watch(job_id)
    group.hold.set()
    while (await front.event()).state is not JobState.SUCCEED:
        pass
    return job_id


@pytest.mark.parametrize(
    ("request_for", "reply_type"),
    [
        (lambda job_id: DeleteJob(job_id=job_id), JobDeleted),
        (lambda _: RemoveExpired(), ExpiredRemoved),
    ],
    ids=["deleted", "expired"],
)
async def test_the_stills_of_a_job_are_removed_with_its_video(
    tmp_path: Path, request_for: Callable[[str], FrontRequest], reply_type: type
) -> None:
    ttl_s = 0.0 if reply_type is ExpiredRemoved else 3600.0
    config = broker_config(tmp_path, job_ttl_s=ttl_s)
    async with running_broker(config), stub(config) as group, Front(config) as front:
        job_id = await finished(group, front, config)
        assert isinstance(await front.ask(request_for(job_id)), reply_type)
        await front.submit_ok()  # once it is accepted, the removal is finished
        assert files_of(job_id, config) == set()


async def test_a_restarted_broker_keeps_only_the_stills_of_known_jobs(
    tmp_path: Path,
) -> None:
    config = broker_config(tmp_path)
    async with running_broker(config) as broker:
        async with stub(config) as group, Front(config) as front:
            job_id = await finished(group, front, config)
        await broker.kill()
        unknown = new_job_id()
        write_stills(unknown, config)
        await broker.start()
        async with Front(config) as front:
            await front.get(job_id)
    assert files_of(unknown, config) == set()
    assert files_of(job_id, config) == {f"{job_id}{ending}" for ending in (".mp4", *STILLS)}
