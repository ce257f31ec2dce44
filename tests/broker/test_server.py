"""The broker as a process, over its real sockets."""

from pathlib import Path

from broker.job import JobState
from tests.broker.driver import Front, broker_config, running_broker
from tests.stub_group import FAKE_VIDEO, StubConfig, StubGroup


async def test_a_job_becomes_a_video(tmp_path: Path) -> None:
    config = broker_config(tmp_path)
    stub = StubConfig(addresses=config.addresses, videos_dir=str(tmp_path / "videos"))
    async with running_broker(config) as broker, StubGroup(stub), Front(config) as front:
        job_id = await front.submit_ok()
        view = await front.until(job_id, JobState.SUCCEED)
        assert view.progress == 1.0
        assert view.attempt == 1
        assert (tmp_path / "videos" / f"{job_id}.mp4").read_bytes() == FAKE_VIDEO
        assert await broker.stop() == 0
