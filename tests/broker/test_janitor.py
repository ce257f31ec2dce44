"""A broker whose files lie in an object store that may be unreachable."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from broker import janitor
from broker.config import BrokerConfig
from broker.journal.journal import Journal
from broker.journal.state_dir import StateDir
from broker.server import Broker
from broker.store.opening import open_store
from broker.store.store import CHECKPOINTS, INPUTS, PARTIAL, VIDEOS, Move, Store
from broker.wire.errors import ErrorCode
from broker.wire.job import JobState
from broker.wire.model_profile import ModelProfile
from broker.wire.replies import HealthFound, JobDeleted, JobFound, ProbeChecked, Refused
from broker.wire.requests import CancelJob, DeleteJob, FindProbe, GetHealth, SubmitJob
from tests.broker.driver import (
    IMAGE,
    LIMIT_S,
    SHAPE,
    SPEC,
    Front,
    broker_config,
    changed_config,
    new_job_id,
)
from tests.object_store import Fault, Site
from tests.running_server import until
from tests.stub_group import StubConfig, StubGroup

OUTAGES: list[Fault] = ["refuses", "unavailable", "silent"]


@pytest.fixture
def config(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> BrokerConfig:
    monkeypatch.setattr(janitor, "RETRY_S", 0.2)
    monkeypatch.setattr(janitor, "SETTLE_S", 1.0)
    monkeypatch.setattr("broker.store.bucket.REQUEST_LIMIT_S", 2)
    return broker_config(tmp_path, store=site.place)


@pytest.fixture
def store(site: Site, tmp_path: Path) -> Store:
    return open_store(site.place, str(tmp_path / "work"))


def put(store: Store, *names: str) -> None:
    for name in names:
        source = store.partial(INPUTS) / "source"
        source.write_bytes(b"content")
        store.put([Move(source, name)])


@asynccontextmanager
async def running(config: BrokerConfig) -> AsyncIterator[Front]:
    """Run a broker in this process, so that patched pauses apply to it."""
    state_dir = StateDir(Path(config.state_dir))
    journal = Journal(state_dir.journal)
    broker = Broker(config, journal)
    task = asyncio.create_task(broker.run())
    try:
        async with Front(config) as front:
            yield front
    finally:
        await broker.stop()
        await asyncio.wait_for(task, LIMIT_S)
        journal.close()
        state_dir.close()


async def submit(front: Front, image: str = IMAGE) -> str:
    reply = await front.ask(SubmitJob(job_id=new_job_id(), spec=SPEC, image=image))
    assert isinstance(reply, JobFound), reply
    return reply.job.job_id


async def test_a_job_is_accepted_only_if_its_image_is_in_the_store(
    config: BrokerConfig, store: Store
) -> None:
    # Not the image of the accepted job: a refused image is removed in the background.
    never_stored = f"{'1' * 64}.ppm"
    async with running(config) as front:
        refused = await front.ask(SubmitJob(job_id=new_job_id(), spec=SPEC, image=never_stored))
        assert isinstance(refused, Refused)
        assert "the image was removed meanwhile" in refused.message
        put(store, f"{INPUTS}/{IMAGE}")
        await submit(front)


async def test_a_job_is_accepted_only_if_its_last_image_is_in_the_store(
    config: BrokerConfig, store: Store
) -> None:
    model = ModelProfile(last_image="optional")
    shape = msgspec.structs.replace(SHAPE, model=model)
    last_image = f"{'1' * 64}.ppm"
    async with running(changed_config(config, shapes=(shape,))) as front:
        put(store, f"{INPUTS}/{IMAGE}")
        refused = await front.ask(
            SubmitJob(job_id=new_job_id(), spec=SPEC, image=IMAGE, last_image=last_image)
        )
        assert isinstance(refused, Refused)
        assert refused.message == "the last image was removed meanwhile; send it again"
        assert refused.field == "last_image"


@pytest.mark.parametrize("fault", OUTAGES)
async def test_while_the_store_is_unreachable_submits_are_refused_and_other_requests_answered(
    fault: Fault, config: BrokerConfig, store: Store, site: Site
) -> None:
    """A silent store must not hold up the broker's other work."""
    async with running(config) as front:
        put(store, f"{INPUTS}/{IMAGE}")
        job_id = await submit(front)
        await submit(front)  # keeps the image
        site.proxy.fail(fault)
        submits = [SubmitJob(job_id=new_job_id(), spec=SPEC, image=IMAGE) for _ in range(5)]
        refusals = asyncio.gather(*(ask(config, message) for message in submits))
        async with asyncio.timeout(1.0):
            assert isinstance(await front.ask(GetHealth()), HealthFound)
            cancelled = await front.ask(CancelJob(job_id=job_id))
        assert isinstance(cancelled, JobFound)
        assert cancelled.job.state is JobState.CANCELLED
        async with asyncio.timeout(janitor.CHECK_LIMIT_S + 1.5):  # a front waits five seconds
            for reply in await refusals:
                assert isinstance(reply, Refused)
                assert reply.code is ErrorCode.UNAVAILABLE
                assert "file store cannot be reached; nothing was accepted" in reply.message
        site.proxy.recover()
        await until_accepted(front)


async def ask(config: BrokerConfig, request: SubmitJob) -> object:
    async with Front(config) as front:
        return await front.ask(request)


async def until_accepted(front: Front) -> None:
    """Submit until a job is accepted: a check may still hang on the old connection."""
    async with asyncio.timeout(LIMIT_S):
        while not isinstance(
            await front.ask(SubmitJob(job_id=new_job_id(), spec=SPEC, image=IMAGE)), JobFound
        ):
            pass


async def test_every_repetition_of_a_submit_is_answered_with_one_job(
    config: BrokerConfig, store: Store
) -> None:
    put(store, f"{INPUTS}/{IMAGE}")
    message = SubmitJob(job_id=new_job_id(), spec=SPEC, image=IMAGE)
    async with running(config) as front:
        replies = await asyncio.gather(*(ask(config, message) for _ in range(5)))
        assert {type(reply) for reply in replies} == {JobFound}
        health = await front.ask(GetHealth())
        assert isinstance(health, HealthFound)
        assert health.queued == 1


async def test_the_files_of_a_removed_job_leave_the_store(
    config: BrokerConfig, store: Store, site: Site
) -> None:
    put(store, f"{INPUTS}/{IMAGE}")
    async with running(config) as front:
        job_id = await submit(front)
        other_job = await submit(front)
        put(store, *files_of(job_id), *files_of(other_job))
        assert isinstance(await front.ask(DeleteJob(job_id=job_id)), JobDeleted)
        await until_names(site, [f"{INPUTS}/{IMAGE}", *files_of(other_job)])
        assert isinstance(await front.ask(DeleteJob(job_id=other_job)), JobDeleted)
        await until_names(site, [])


async def test_the_files_of_an_expired_job_leave_the_store(
    config: BrokerConfig, store: Store, site: Site, tmp_path: Path
) -> None:
    put(store, f"{INPUTS}/{IMAGE}")
    stub = StubConfig(addresses=config.addresses, videos_dir=str(tmp_path / "far"), num_steps=1)
    async with (
        running(changed_config(config, job_ttl_s=0.0)) as front,
        StubGroup(stub),
    ):
        job_id = await submit(front)
        put(store, *files_of(job_id))
        await until_names(site, [])


async def test_files_that_cannot_be_removed_now_are_removed_later(
    config: BrokerConfig, store: Store, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, f"{INPUTS}/{IMAGE}")
    async with running(config) as front:
        job_id = await submit(front)
        put(store, *files_of(job_id))
        site.proxy.fail("refuses")
        async with asyncio.timeout(1.0):
            assert isinstance(await front.ask(DeleteJob(job_id=job_id)), JobDeleted)
        await until(lambda: "cannot remove files yet" in caplog.text, LIMIT_S)
        assert len(site.names()) == 1 + len(files_of(job_id))
        site.proxy.recover()
        await until_names(site, [])


async def test_a_late_removal_spares_an_image_that_a_new_job_uses(
    config: BrokerConfig,
    store: Store,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(janitor, "RETRY_S", 2.0)
    put(store, f"{INPUTS}/{IMAGE}")
    async with running(config) as front:
        job_id = await submit(front)
        put(store, *files_of(job_id))
        site.proxy.fail("unavailable")
        assert isinstance(await front.ask(DeleteJob(job_id=job_id)), JobDeleted)
        await until(lambda: "cannot remove files yet" in caplog.text, LIMIT_S)
        site.proxy.recover()
        await submit(front)
        await until_names(site, [f"{INPUTS}/{IMAGE}"])


async def test_a_start_sweeps_the_store_even_if_it_is_unreachable_at_first(
    config: BrokerConfig, store: Store, site: Site
) -> None:
    put(store, f"{INPUTS}/{IMAGE}")
    async with running(config) as front:
        job_id = await submit(front)
    kept = [f"{INPUTS}/{IMAGE}", *files_of(job_id), "webhook.key"]
    orphans = [f"{INPUTS}/{9:064x}.ppm", *files_of("9" * 32), f"{PARTIAL}/{'8' * 32}.probe"]
    put(store, *files_of(job_id), *orphans, "webhook.key")
    site.proxy.fail("refuses")
    async with running(config) as front:
        assert (await front.get(job_id)).state is JobState.IN_QUEUE
        site.proxy.recover()
        await until_names(site, kept)


async def test_the_sweep_spares_an_image_that_is_stored_before_its_job_arrives(
    config: BrokerConfig, store: Store, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep lists the store twice and removes only what had no job both times."""
    put(store, f"{INPUTS}/{IMAGE}", orphan := f"{INPUTS}/{9:064x}.ppm")
    async with running(config) as front:
        await submit(front)
        await until(lambda: orphan not in site.names(), LIMIT_S)
        assert site.names() == [f"{INPUTS}/{IMAGE}"]


async def test_a_joining_machine_can_check_that_it_shares_the_store(
    config: BrokerConfig, store: Store
) -> None:
    name = f"{'a' * 32}.probe"
    async with running(config) as front:
        assert await front.ask(FindProbe(name=name)) == ProbeChecked(found=False)
        put(store, f"{PARTIAL}/{name}")
        assert await front.ask(FindProbe(name=name)) == ProbeChecked(found=True)


def files_of(job_id: str) -> list[str]:
    endings = (".mp4", ".sprites.webp", ".webp")
    return [
        f"{CHECKPOINTS}/{job_id}.safetensors",
        *(f"{VIDEOS}/{job_id}{ending}" for ending in endings),
    ]


async def until_names(site: Site, names: list[str]) -> None:
    await until(lambda: site.names() == sorted(names), LIMIT_S)
