import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.wire.sockets import Addresses
from launcher.group_life import GroupLife
from launcher.spawn import Reaper
from ranks.config import RankConfig

LIMIT_S = 20.0
WORLD_SIZE = 8


@pytest.fixture
async def reaper() -> AsyncIterator[Reaper]:
    reaper = Reaper()
    reaper.start()
    yield reaper
    asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)


def make_group(reaper: Reaper, folder: Path, behaviour: str) -> GroupLife:
    config = RankConfig(
        group="g0",
        epoch=1,
        world_size=WORLD_SIZE,
        model_path=behaviour,
        device="cpu",
        addresses=Addresses.in_folder(folder),
        store=str(folder),
        rendezvous="",
        parent_pid=os.getpid(),
    )
    return GroupLife(reaper, config, "tests.launcher.stub_starter")


async def start(group: GroupLife) -> "asyncio.Task[str]":
    running = asyncio.create_task(group.run(startup_limit_s=LIMIT_S))
    await asyncio.wait_for(group.ready.wait(), LIMIT_S)
    return running


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def assert_all_reaped(group: GroupLife) -> None:
    assert len(group.pids) == WORLD_SIZE
    for pid in group.pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_ranks_become_children_of_the_launcher(reaper: Reaper, tmp_path: Path) -> None:
    group = make_group(reaper, tmp_path, "live")
    running = await start(group)
    assert {parent_of(pid) for pid in group.pids.values()} == {os.getpid()}
    group.end("enough")
    assert await asyncio.wait_for(running, LIMIT_S) == "enough"


@pytest.mark.parametrize("rank", range(WORLD_SIZE))
async def test_a_dead_rank_ends_the_whole_group(reaper: Reaper, tmp_path: Path, rank: int) -> None:
    group = make_group(reaper, tmp_path, "live")
    running = await start(group)
    os.kill(group.pids[rank], signal.SIGKILL)
    reason = await asyncio.wait_for(running, LIMIT_S)
    assert reason == f"rank {rank} was ended by SIGKILL"
    assert_all_reaped(group)


async def test_a_stopped_rank_is_ended_too(reaper: Reaper, tmp_path: Path) -> None:
    group = make_group(reaper, tmp_path, "live")
    running = await start(group)
    os.kill(group.pids[3], signal.SIGSTOP)
    group.kill("rank 3 is silent")
    assert await asyncio.wait_for(running, LIMIT_S) == "rank 3 is silent"
    assert_all_reaped(group)


async def test_stacks_are_dumped_before_a_kill(
    reaper: Reaper, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    group = make_group(reaper, tmp_path, "live")
    running = await start(group)
    group.kill("a step does not end")
    await asyncio.wait_for(running, LIMIT_S)
    lines = capfd.readouterr().err.splitlines()
    assert sum(line.startswith("Current thread") for line in lines) == WORLD_SIZE


async def test_a_rank_that_fails_to_load_says_why(reaper: Reaper, tmp_path: Path) -> None:
    group = make_group(reaper, tmp_path, "die")
    reason = await asyncio.wait_for(group.run(LIMIT_S), LIMIT_S)
    assert reason == "rank 1: the weights are damaged"
    assert_all_reaped(group)


@pytest.mark.parametrize(("behaviour", "is_unfit"), [("unfit", True), ("die", False)])
async def test_a_model_that_cannot_be_served_is_told_from_a_failure_that_a_restart_may_end(
    reaper: Reaper, tmp_path: Path, behaviour: str, is_unfit: bool
) -> None:
    group = make_group(reaper, tmp_path, behaviour)
    await asyncio.wait_for(group.run(LIMIT_S), LIMIT_S)
    assert group.is_unfit is is_unfit


async def test_a_starter_process_that_fails_ends_the_group(reaper: Reaper, tmp_path: Path) -> None:
    group = make_group(reaper, tmp_path, "break")
    reason = await asyncio.wait_for(group.run(LIMIT_S), LIMIT_S)
    assert reason == "the starter process ended with exit code 3"


@pytest.mark.parametrize(
    ("behaviour", "limit_s", "num_ready", "missing", "num_stacks"),
    [
        ("mute", 2, 7, "5", WORLD_SIZE),
        ("stuck", 2, 0, "0, 1, 2, 3, 4, 5, 6, 7", 1),
        ("stuck early", 0, 0, "0, 1, 2, 3, 4, 5, 6, 7", 0),
    ],
)
async def test_ranks_that_are_not_ready_in_time_are_named_and_show_where_they_hang(
    reaper: Reaper,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    behaviour: str,
    limit_s: float,
    num_ready: int,
    missing: str,
    num_stacks: int,
) -> None:
    group = make_group(reaper, tmp_path, behaviour)
    reason = await asyncio.wait_for(group.run(limit_s), LIMIT_S)
    assert reason == f"after {limit_s} s only {num_ready} of 8 ranks were ready; missing: {missing}"
    lines = capfd.readouterr().err.splitlines()
    assert sum(line.startswith("Current thread") for line in lines) == num_stacks


async def test_ranks_exit_by_themselves_when_asked(reaper: Reaper, tmp_path: Path) -> None:
    group = make_group(reaper, tmp_path, "live")
    running = await start(group)
    await asyncio.wait_for(group.ask_to_leave(), LIMIT_S)
    assert "SIGTERM" in await asyncio.wait_for(running, LIMIT_S)
    assert_all_reaped(group)


async def test_rank_0_may_finish_saving_a_video(reaper: Reaper, tmp_path: Path) -> None:
    group = make_group(reaper, tmp_path, "slow")
    running = await start(group)
    await asyncio.wait_for(group.ask_to_leave(), LIMIT_S)
    group.end("stopped")
    assert await asyncio.wait_for(running, LIMIT_S) == "stopped"
    assert os.listdir(tmp_path) == ["saved"]


async def test_ranks_that_ignore_the_request_are_ended(reaper: Reaper, tmp_path: Path) -> None:
    group = make_group(reaper, tmp_path, "stubborn")
    running = await start(group)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(group.ask_to_leave(), 0.2)
    group.end("stopped")
    assert await asyncio.wait_for(running, LIMIT_S) == "stopped"
    assert_all_reaped(group)
