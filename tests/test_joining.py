"""Groups and fronts that join a server over TCP: real launchers, stub ranks, CURVE keys."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from broker.wire.curve import make_keys
from tests.cable import cable
from tests.chaos.server import ChaosServer
from tests.free_port import free_port
from tests.listening import listening
from tests.running_server import DEMO, RunningServer, calling, until

LOST_S = 4.0
LOG_LIMIT_S = 60.0


class JoinableServer:
    """A server that other machines can join, and their CURVE keys.

    Args:
        folder: An empty folder.
        groups: Groups on the server's own machine.
        lost_s: Time without a message after which a machine counts as lost.
        flags: Further options of the server.
        settings: Further fields of `StubSettings`.
    """

    def __init__(
        self,
        folder: Path,
        groups: int = 1,
        lost_s: float = LOST_S,
        flags: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.keys = folder / "keys"
        broker_keys, self.peer_keys = make_keys(self.keys)
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.folder = folder
        self.server = ChaosServer(
            folder,
            groups=groups,
            lost_s=lost_s,
            flags=["--listen", self.address, "--curve-keys", str(broker_keys), *flags],
            **settings,
        )

    def join(self, role: str, name: str, *flags: str, keys: Path | None = None) -> RunningServer:
        """Start a launcher that joins the server, as on another machine."""
        settings = msgspec.json.encode(self.server.settings).decode()
        options = ["--join", self.address, "--curve-keys", str(keys or self.peer_keys)]
        options += ["--store", str(self.server.state_dir), "--device", "cpu", "--port", "0"]
        if "--model" not in flags:
            options += ["--model-path", str(self.folder / "model")]
        options += flags
        return RunningServer(
            self.folder / name, *options, command=["-m", "tests.chaos.launch", settings, role]
        )

    def groups_of(self, job_id: str) -> list[str]:
        """Return the group of each attempt of a job, in order."""
        entries = self.server.ledger.read()
        return [e.group for e in entries if e.what == "started" and e.job_id == job_id]


@asynccontextmanager
async def joined(
    site: JoinableServer, role: str, name: str, *flags: str
) -> AsyncIterator[RunningServer]:
    """Start a launcher that joins; kill it at the end."""
    machine = site.join(role, name, *flags)
    try:
        await machine.wait_until_ready()
        yield machine
    finally:
        machine.end()


@asynccontextmanager
async def open_site(folder: Path, **settings: Any) -> AsyncIterator[JoinableServer]:
    """Start a server that others can join; kill it at the end."""
    site = JoinableServer(folder, **settings)
    try:
        await site.server.start()
        yield site
    finally:
        site.server.end()


async def test_groups_of_different_sizes_on_two_machines_serve_one_queue(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path) as site,
        joined(site, "group", "far", "--nproc", "2"),
        calling(site.server.life) as caller,
    ):
        jobs = [await caller.submit(ulysses_size="8") for _ in range(2)]
        jobs += [await caller.submit() for _ in range(6)]
        for job_id in jobs:
            await caller.wait_for(job_id, status="Succeed", attempt=1)
    ran = [site.groups_of(job_id) for job_id in jobs]
    assert ran[:2] == [["g0"], ["g0"]]
    assert {len(groups) for groups in ran} == {1}
    far = {groups[0] for groups in ran} - {"g0"}
    assert len(far) == 1
    assert far.pop().endswith("-g0")


async def test_another_machine_finishes_the_job_of_a_lost_one(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path, groups=0, num_steps=100) as site,
        joined(site, "group", "far") as far,
        calling(site.server.life) as caller,
    ):
        job_id = await caller.submit()
        await caller.wait_for(job_id, stage="denoise")
        async with joined(site, "group", "near"):
            far.process.kill()
            await caller.wait_for(job_id, status="Succeed", attempt=2)
    first, second = site.groups_of(job_id)
    assert first != second


async def test_a_group_that_is_stopped_finishes_its_job_and_leaves(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path, num_steps=50) as site,
        joined(site, "group", "far") as far,
        calling(site.server.life) as caller,
    ):
        jobs = [await caller.submit() for _ in range(2)]
        for job_id in jobs:
            await caller.wait_for(job_id, stage="denoise")
        assert await far.stop() == 0
        jobs.append(await caller.submit())
        for job_id in jobs:
            await caller.wait_for(job_id, status="Succeed", attempt=1)
    assert [len(site.groups_of(job_id)) for job_id in jobs] == [1, 1, 1]
    assert "cannot be reached" not in far.log()


async def test_a_group_whose_server_is_gone_can_still_be_stopped(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site, joined(site, "group", "far") as far:
        await site.server.kill_launcher()
        assert await far.stop() == 0
        assert "the broker cannot be reached" in far.log()


async def test_a_drain_of_the_server_stops_its_groups_everywhere(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path, groups=0, num_steps=50) as site,
        joined(site, "group", "far") as far,
        joined(site, "front", "front") as front,
        calling(site.server.life) as caller,
    ):
        job_id = await caller.submit()
        await caller.wait_for(job_id, stage="denoise")
        async with caller.session.post("/admin/drain") as response:
            assert response.status in (200, 202)
        await caller.wait_for(job_id, status="Succeed", attempt=1)
        for launcher in (far, site.server.life):
            assert await asyncio.to_thread(launcher.process.wait, LOG_LIMIT_S) == 0
        assert front.process.poll() is None


async def test_a_signal_after_a_drain_still_lets_the_job_finish(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path, groups=0, num_steps=50) as site,
        joined(site, "group", "far") as far,
        calling(site.server.life) as caller,
    ):
        job_id = await caller.submit()
        await caller.wait_for(job_id, stage="denoise")
        async with caller.session.post("/admin/drain"):
            await far.wait_until_logged("drain: stopping")
        far.process.send_signal(signal.SIGTERM)
        await caller.wait_for(job_id, status="Succeed", attempt=1)
        assert await asyncio.to_thread(far.process.wait, LOG_LIMIT_S) == 0
    assert "ending everything" not in far.log()


async def test_a_client_submits_at_one_front_and_watches_at_another(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_site(tmp_path))
        front = await stack.enter_async_context(joined(site, "front", "a"))
        other = await stack.enter_async_context(joined(site, "front", "b"))
        near = await stack.enter_async_context(calling(front))
        far = await stack.enter_async_context(calling(other))
        job_id = await near.submit()
        await far.wait_for(job_id, status="Succeed")
        async with far.session.get(f"/videos/{job_id}.mp4") as response:
            assert response.status == 200
            assert job_id in await response.text()
        assert await front.stop() == 0


async def test_groups_and_fronts_reconnect_to_a_restarted_broker(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path, groups=0, num_steps=100) as site,
        joined(site, "group", "far"),
        joined(site, "front", "front") as front,
        calling(front) as caller,
    ):
        running = await caller.submit()
        await caller.wait_for(running, stage="denoise")
        (broker,) = site.server.life.pids("-m\0broker\0")
        os.kill(broker, signal.SIGKILL)
        following = await caller.submit()
        for job_id in (running, following):
            await caller.wait_for(job_id, status="Succeed", attempt=1)
    assert len(site.groups_of(running)) == 1


async def test_a_server_that_does_not_drain_leaves_the_jobs_of_other_machines_running(
    tmp_path: Path,
) -> None:
    flags = ["--drain-timeout", "0"]
    async with (
        open_site(tmp_path, groups=0, flags=flags, num_steps=500) as site,
        joined(site, "group", "far"),
        calling(site.server.life) as caller,
    ):
        running = await caller.submit()
        await caller.wait_for(running, stage="denoise")
        assert await site.server.life.stop() == 0
        assert not [e for e in site.server.ledger.read() if e.what == "ended"]
        await site.server.start()
        async with calling(site.server.life) as again:
            await again.wait_for(running, status="Succeed", attempt=1)
    assert len(site.groups_of(running)) == 1


async def test_a_dead_connection_is_replaced_before_a_group_counts_as_lost(tmp_path: Path) -> None:
    first = free_port()
    flags = ["--join", f"tcp://127.0.0.1:{first}"]
    async with (
        open_site(tmp_path, groups=0, lost_s=30.0) as site,
        cable(first, site.port) as line,
        joined(site, "group", "far", *flags) as far,
        calling(site.server.life) as caller,
    ):
        connections = line.num_connections
        line.go_dead()
        # Every socket of the group: heartbeats, rank 0's reports and the launcher's.
        await until(lambda: line.num_connections >= connections + 3, LOG_LIMIT_S)
        await caller.wait_for(await caller.submit(), status="Succeed", attempt=1)
        assert "ending it" not in far.log()


async def test_a_job_that_ends_while_the_connection_is_dead_is_reported_later(
    tmp_path: Path,
) -> None:
    first = free_port()
    async with (
        open_site(tmp_path, groups=0, lost_s=30.0, step_s=0.5) as site,
        cable(first, site.port) as line,
        joined(site, "group", "far", "--join", f"tcp://127.0.0.1:{first}"),
        calling(site.server.life) as caller,
    ):
        job_id = await caller.submit()
        await caller.wait_for(job_id, stage="decode")
        line.go_dead()
        await caller.wait_for(job_id, status="Succeed", attempt=1)


async def test_a_server_that_others_join_listens_only_where_it_is_configured(
    tmp_path: Path,
) -> None:
    async with (
        open_site(tmp_path) as site,
        joined(site, "group", "far") as far,
        joined(site, "front", "front") as front,
    ):
        run_dir = site.server.state_dir / "run"
        sockets = ("requests", "groups", "beats", "events")
        assert listening(site.server.life.pids()) == {
            *(f"127.0.0.1:{site.port + offset}" for offset in range(4)),
            *(str(run_dir / f"{name}.sock") for name in sockets),
            site.server.life.url.removeprefix("http://"),
        }
        assert listening(far.pids()) == {str(tmp_path / "far" / "run" / "beats.sock")}
        assert listening(front.pids()) == {front.url.removeprefix("http://")}


async def test_an_unknown_key_is_refused_and_logged_on_both_sides(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        _, others = make_keys(tmp_path / "others")
        (others / "broker.key").write_bytes((site.peer_keys / "broker.key").read_bytes())
        stranger = site.join("group", "far", keys=others)
        try:
            assert await asyncio.to_thread(stranger.process.wait, LOG_LIMIT_S) == 1
            assert "does not know the key" in stranger.log()
            await site.server.life.wait_until_logged("broker refused 127.0.0.1, which shows")
        finally:
            stranger.end()


async def test_a_different_folder_of_files_is_refused(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "videos" / ".partial").mkdir(parents=True)
        for folder, message in (
            (elsewhere, "is not the store of the server"),
            (tmp_path / "nowhere", "No such file or directory; name the path"),
        ):
            machine = site.join("group", "far", "--store", str(folder))
            try:
                assert await asyncio.to_thread(machine.process.wait, LOG_LIMIT_S) == 1
                assert message in machine.log()
            finally:
                machine.end()


async def test_real_ranks_on_another_machine_make_a_video(tmp_path: Path) -> None:
    site = JoinableServer(tmp_path, groups=0)
    site.server.spawn()
    far = None
    try:
        await site.server.life.wait_until_ready()
        flags = ["--join", site.address, "--curve-keys", str(site.peer_keys), "--nproc", "2"]
        flags += ["--store", str(site.server.state_dir)]
        far = RunningServer(tmp_path / "far", *flags, command=[DEMO[0], "group", *DEMO[1:]])
        await far.wait_until_ready()
        async with calling(site.server.life) as caller:
            job_id = await caller.submit()
            await caller.wait_for(job_id, status="Succeed", attempt=1)
            async with caller.session.get(f"/videos/{job_id}.mp4") as response:
                assert (await response.read())[4:8] == b"ftyp"
        assert await far.stop() == 0
        assert await site.server.life.stop() == 0
    finally:
        site.server.end()
        if far is not None:
            far.end()
