"""The broker as a process, over its real sockets."""

import os
from pathlib import Path

import msgspec
import pytest

from broker.config import BrokerConfig
from broker.process.child import UNFIT_EXIT_CODE
from broker.wire.errors import ErrorCode
from broker.wire.group_commands import CancelRun, Drained, KillGroup, PreemptRun, RunJob
from broker.wire.group_reports import GroupReady, JobFinished
from broker.wire.job import JobState, Stage
from broker.wire.replies import (
    ExpiredRemoved,
    HealthFound,
    JobFound,
    JobHistory,
    JobsListed,
    Refused,
)
from broker.wire.requests import (
    CancelJob,
    GetHealth,
    GetJob,
    ListJobs,
    RemoveExpired,
    SubmitJob,
    WatchJob,
)
from tests.broker.driver import (
    IMAGE,
    SHAPE,
    SPEC,
    Front,
    broker_config,
    changed_config,
    new_job_id,
    run_to_the_end,
    running_broker,
)
from tests.stub_group import FAKE_VIDEO, StubConfig, StubGroup

NUM_HEARTBEATS = 100


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    return broker_config(tmp_path)


def stub(config: BrokerConfig, **changes: object) -> StubGroup:
    videos_dir = str(Path(config.state_dir) / "videos")
    settings = StubConfig(addresses=config.addresses, videos_dir=videos_dir)
    return StubGroup(msgspec.structs.replace(settings, **changes))


def video(config: BrokerConfig, job_id: str) -> Path:
    return Path(config.state_dir) / "videos" / f"{job_id}.mp4"


def files(config: BrokerConfig) -> list[str]:
    return [path.name for path in Path(config.state_dir).rglob("*")]


async def test_a_job_becomes_a_video(config: BrokerConfig) -> None:
    async with running_broker(config) as broker, stub(config), Front(config) as front:
        job_id = await front.submit_ok()
        view = await front.until(job_id, JobState.SUCCEED)
        assert (view.progress, view.attempt, view.video) == (1.0, 1, f"{job_id}.mp4")
        assert video(config, job_id).read_bytes() == FAKE_VIDEO
        assert await broker.stop() == 0


async def test_every_change_is_published_once_and_in_order(config: BrokerConfig) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        job_id = await front.submit_ok()
        await group.heard(RunJob)
        seen = [await front.watch(job_id)]
        group.hold.set()
        while not seen[-1].state.is_terminal:
            change = await front.event()
            if change != seen[0]:  # sent on subscription, and perhaps also published
                seen.append(change)
        reply = await front.ask(WatchJob(job_id=job_id, after_seq=0))
        assert isinstance(reply, JobHistory)
        assert [view.seq for view in reply.jobs] == list(range(1, seen[-1].seq + 1))
        assert [view for view in reply.jobs if view.seq >= seen[0].seq] == seen
        assert [view.progress for view in reply.jobs] == sorted(v.progress for v in reply.jobs)
        assert {view.stage for view in reply.jobs} >= {Stage.ENCODE, Stage.DENOISE, Stage.DECODE}


async def test_a_watch_that_missed_nothing_gets_the_current_state(config: BrokerConfig) -> None:
    async with running_broker(config), Front(config) as front:
        job_id = await front.submit_ok()
        reply = await front.ask(WatchJob(job_id=job_id, after_seq=99))
        assert isinstance(reply, JobHistory)
        assert [view.job_id for view in reply.jobs] == [job_id]


@pytest.mark.parametrize(
    "request_",
    [
        GetJob(job_id="0" * 32),
        WatchJob(job_id="no such job", after_seq=0),
        CancelJob(job_id="0" * 32),
    ],
)
async def test_an_unknown_job_is_not_found(
    config: BrokerConfig, request_: GetJob | WatchJob | CancelJob
) -> None:
    async with running_broker(config), Front(config) as front:
        reply = await front.ask(request_)
        assert isinstance(reply, Refused)
        assert reply.code is ErrorCode.JOB_NOT_FOUND


async def test_jobs_are_listed_newest_first(config: BrokerConfig) -> None:
    async with running_broker(config), Front(config) as front:
        jobs = [await front.submit_ok() for _ in range(3)]
        for limit, expected in ((2, jobs[:0:-1]), (100, jobs[::-1]), (-1, [])):
            reply = await front.ask(ListJobs(limit=limit))
            assert isinstance(reply, JobsListed)
            assert [view.job_id for view in reply.jobs] == expected


async def test_concurrent_submits_are_accepted_up_to_the_limit_of_the_queue(
    config: BrokerConfig,
) -> None:
    async with running_broker(config), Front(config) as one, Front(config) as other:
        for _ in range(100):
            await one.send_submit(new_job_id())
            await other.send_submit(new_job_id())
        replies = [*await one.replies(100), *await other.replies(100)]
        accepted = [reply for reply in replies if isinstance(reply, JobFound)]
        refused = [reply for reply in replies if isinstance(reply, Refused)]
        assert len({reply.job.job_id for reply in accepted}) == 100
        assert {reply.code for reply in refused} == {ErrorCode.QUEUE_FULL}


async def test_concurrent_repetitions_of_a_submit_create_one_job(config: BrokerConfig) -> None:
    async with running_broker(config), Front(config) as front:
        job_id = new_job_id()
        for _ in range(50):
            await front.send_submit(job_id)
        replies = await front.replies(50)
        assert all(isinstance(reply, JobFound) for reply in replies), replies
        health = await front.ask(GetHealth())
        assert isinstance(health, HealthFound)
        assert health.queued == 1


async def test_a_job_whose_image_is_missing_is_refused(config: BrokerConfig) -> None:
    async with running_broker(config), Front(config) as front:
        reply = await front.ask(SubmitJob(job_id=new_job_id(), spec=SPEC, image=f"{7:064x}.ppm"))
        assert isinstance(reply, Refused)
        assert reply.code is ErrorCode.IMAGE_REMOVED
        listed = await front.ask(ListJobs())
        assert listed == JobsListed(jobs=[], has_more=False)


async def test_a_running_job_is_cancelled_and_the_group_takes_the_next(
    config: BrokerConfig,
) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        first = await front.submit_ok()
        second = await front.submit_ok()
        await group.heard(RunJob)
        reply = await front.ask(CancelJob(job_id=first))
        assert isinstance(reply, JobFound)
        assert reply.job.state is JobState.CANCELLED
        await group.heard(CancelRun)
        group.hold.set()
        assert (await front.until(second, JobState.SUCCEED)).attempt == 1
        assert (await front.get(first)).state is JobState.CANCELLED
        assert not video(config, first).exists()


async def test_an_urgent_job_preempts_an_attempt_whose_job_runs_again_later(
    config: BrokerConfig,
) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        first = await front.submit_ok()
        waiting = await front.submit_ok()
        await group.heard(RunJob)
        reply = await front.submit(priority=1)
        assert isinstance(reply, JobFound)
        urgent = reply.job.job_id
        await group.heard(PreemptRun)
        group.hold.set()
        views = [await front.until(job, JobState.SUCCEED) for job in (urgent, first, waiting)]
        assert [(view.attempt, view.priority) for view in views] == [(1, 1), (2, 0), (1, 0)]
        given = [c.lease.job_id for c in group.received if isinstance(c, RunJob)]
        assert given == [first, urgent, first, waiting]


async def test_a_job_whose_group_dies_succeeds_in_its_second_attempt(config: BrokerConfig) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        job_id = await front.submit_ok()
        await group.heard(RunJob)
        await group.new_life("killed by the test")
        group.hold.set()
        assert (await front.until(job_id, JobState.SUCCEED)).attempt == 2


async def test_a_job_that_kills_its_group_fails_after_three_attempts(config: BrokerConfig) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.behaviour = "die"
        job_id = await front.submit_ok()
        view = await front.until(job_id, JobState.FAILED)
        assert (view.error_code, view.attempt) == (ErrorCode.GROUP_LOST, 3)
        assert view.reason == "the ranks died or hung during the run (3 attempts)"
        assert len([c for c in group.received if isinstance(c, RunJob)]) == 3


async def test_a_group_that_does_not_start_its_job_is_killed(config: BrokerConfig) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.behaviour = "refuse"
        job_id = await front.submit_ok()
        kill = await group.heard(KillGroup)
        group.behaviour = "succeed"
        assert kill.reason == f"job {job_id}: not taken within 5 s"
        assert (await front.until(job_id, JobState.SUCCEED)).attempt == 2


async def test_reports_of_a_second_rank_0_are_ignored(config: BrokerConfig) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        job_id = await front.submit_ok()
        run = await group.heard(RunJob)
        async with stub(config, with_launcher=False) as impostor:
            await impostor.say(JobFinished(lease=run.lease, video="forged.mp4"))
            await impostor.say(
                GroupReady(group="group-0", epoch=1, shape=SHAPE, device="stub", running=[])
            )
            await group.say(GroupReady(group="group-1", epoch=1, shape=SHAPE, device="stub"))
            await front.until_health(lambda health: len(health.groups) == 2)
            assert impostor.received == []
        assert (await front.get(job_id)).state is JobState.IN_PROGRESS
        group.hold.set()
        assert (await front.until(job_id, JobState.SUCCEED)).video == f"{job_id}.mp4"


async def test_draining_lets_the_running_job_finish(config: BrokerConfig) -> None:
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        first, second = await front.submit_ok(), await front.submit_ok()
        await group.heard(RunJob)
        await group.drain()
        await front.until_health(lambda health: health.draining)
        refused = await front.submit()
        assert isinstance(refused, Refused)
        assert refused.code is ErrorCode.UNAVAILABLE
        group.hold.set()
        await group.heard(Drained)
        assert (await front.get(first)).state is JobState.SUCCEED
        assert (await front.get(second)).state is JobState.IN_QUEUE


async def test_health_has_a_row_for_every_rank(config: BrokerConfig) -> None:
    async with running_broker(config), Front(config) as front:
        health = await front.ask(GetHealth())
        assert isinstance(health, HealthFound)
        assert not health.ready
        async with stub(config):
            health = await front.until_health(
                lambda health: health.ready and len(health.groups[0].ranks) == 8
            )
            assert [row.pid for row in health.groups[0].ranks] == [os.getpid()] * 8


async def test_every_heartbeat_of_a_burst_is_taken(config: BrokerConfig) -> None:
    """The broker reads all waiting heartbeats before it waits for the socket again."""
    quiet = stub(config, beat_every_s=3600.0)
    async with running_broker(config), Front(config) as front, quiet as group:
        await front.until_health(lambda health: health.ready)
        for step in range(1, NUM_HEARTBEATS + 1):
            await group.beat(step)
        await front.until_health(
            lambda health: [row.step for row in health.groups[0].ranks] == [NUM_HEARTBEATS] * 8
        )


async def test_an_expired_job_leaves_nothing(config: BrokerConfig) -> None:
    config = changed_config(config, job_ttl_s=0.0)
    async with running_broker(config), stub(config) as group, Front(config) as front:
        group.hold.clear()
        job_id = await front.submit_ok()
        await group.heard(RunJob)
        checkpoint = Path(config.state_dir) / "checkpoints" / f"{job_id}.safetensors"
        checkpoint.write_bytes(b"latents")
        await front.watch(job_id)
        group.hold.set()
        while (await front.event()).state is not JobState.SUCCEED:
            pass
        # This request removes the job unless a tick already did.
        assert isinstance(await front.ask(RemoveExpired()), ExpiredRemoved)
        assert isinstance(await front.ask(GetJob(job_id=job_id)), Refused)
        assert [name for name in files(config) if job_id in name] == []
        assert not (Path(config.state_dir) / "inputs" / IMAGE).exists()


async def test_a_second_broker_on_the_same_state_directory_ends_with_a_clear_message(
    config: BrokerConfig,
) -> None:
    async with running_broker(config), Front(config) as front:
        code, errors = await run_to_the_end(config)
        assert code == 75
        assert f"another broker uses the state directory {config.state_dir}" in errors
        await front.submit_ok()


async def test_a_damaged_journal_ends_the_start_with_a_clear_message(config: BrokerConfig) -> None:
    (Path(config.state_dir) / "jobs.sqlite3").write_bytes(b"nothing of the kind" * 1000)
    code, errors = await run_to_the_end(config)
    assert code == UNFIT_EXIT_CODE
    assert "the journal cannot be used" in errors
    assert "jobs.sqlite3 is damaged (file is not a database); put a backup in its place" in errors
