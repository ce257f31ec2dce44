"""Poster and sprite sheet live and go with the video whose stills they are."""

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
    """Return what is left in `videos/` of a job."""
    folder = Path(config.state_dir) / "videos"
    return {path.name for path in folder.rglob("*") if path.name.startswith(job_id)}


def write_stills(job_id: str, config: BrokerConfig) -> set[str]:
    """Write the stills beside a video, as rank 0 does; return their names."""
    folder = Path(config.state_dir) / "videos"
    for ending in STILLS:
        (folder / f"{job_id}{ending}").write_bytes(b"a picture")
    return {f"{job_id}{ending}" for ending in STILLS}


async def finished(group: StubGroup, front: Front, config: BrokerConfig) -> str:
    """Return a job that has succeeded, with its stills."""
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
    ("ask", "answer"),
    [
        (lambda job_id: DeleteJob(job_id=job_id), JobDeleted),
        (lambda _: RemoveExpired(), ExpiredRemoved),
    ],
    ids=["deleted", "expired"],
)
async def test_the_stills_of_a_finished_job_go_with_its_video(
    tmp_path: Path, ask: Callable[[str], FrontRequest], answer: type
) -> None:
    """Seen to fail with the video alone removed."""
    ttl_s = 0.0 if answer is ExpiredRemoved else 3600.0
    config = broker_config(tmp_path, job_ttl_s=ttl_s)
    async with running_broker(config), stub(config) as group, Front(config) as front:
        job_id = await finished(group, front, config)
        assert isinstance(await front.ask(ask(job_id)), answer)
        await front.submit_ok()  # a later round of the worker: what came before is done
        assert files_of(job_id, config) == set()


async def test_a_restarted_broker_keeps_the_stills_of_its_jobs_and_no_others(
    tmp_path: Path,
) -> None:
    """Seen to fail with the stills of every job kept, and with those of every job removed."""
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
