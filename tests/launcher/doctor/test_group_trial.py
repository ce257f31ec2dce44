"""The device trial of `--check`: real ranks, started as a server starts them, without a model."""

import asyncio
import os
from pathlib import Path

import pytest
import torch

from broker.wire.sockets import Addresses
from launcher.doctor.group_trial import try_groups
from launcher.group_life import GroupLife
from launcher.options import Options
from launcher.spawn import Reaper
from ranks import device_trial as trial
from ranks.config import RankConfig
from ranks.device import open_device
from ranks.errors import DeviceError
from tests.running_server import until

LIMIT_S = 120.0


def rendezvous_files(folder: Path) -> list[Path]:
    return list(folder.glob("*.rendezvous"))


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_groups_with_working_devices_pass(tmp_path: Path) -> None:
    assert await try_groups(Options(nproc=2, groups=2), "cpu", tmp_path) == []
    assert len(rendezvous_files(tmp_path)) == 2


async def test_the_reason_that_ranks_cannot_join_is_named_for_each_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    failures = await try_groups(Options(nproc=2, groups=2), "cpu", tmp_path)
    assert len(failures) == 2
    assert all("nowhere0" in failure for failure in failures)


async def test_on_accelerators_each_rank_is_a_new_interpreter(tmp_path: Path) -> None:
    """CUDA and CANN refuse to work in a fork of a process that has initialised them."""
    reaper = Reaper()
    reaper.start()
    config = RankConfig(
        group="g0",
        epoch=1,
        world_size=2,
        model_path="",
        device="cuda",
        addresses=Addresses.in_folder(tmp_path),
        store=str(tmp_path),
        rendezvous=str(tmp_path / "rendezvous"),
        parent_pid=os.getpid(),
    )
    group = GroupLife(reaper, config, "ranks")
    ending = asyncio.create_task(group.run(LIMIT_S))
    await until(lambda: len(group.pids) == 2, LIMIT_S)
    assert [command_line(pid)[-3] for pid in group.pids.values()] == ["0", "1"]
    if not torch.cuda.is_available():
        assert "device cuda was asked for, but torch sees none" in await ending
    group.end("seen")
    await ending


def test_wrong_attention_results_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device("cpu", 0, 1)
    trial.try_allocation(device)
    trial.try_attention(device)
    monkeypatch.setattr(trial, "dispatch_attention_fn", lambda query, *_, **__: query * torch.nan)
    with pytest.raises(DeviceError, match="cpu: attention over equal values is wrong by nan"):
        trial.try_attention(device)
