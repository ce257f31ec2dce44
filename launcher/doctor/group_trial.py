"""Runs the ranks of every group without a model, to see whether their devices work."""

import asyncio
import os
from pathlib import Path

from broker.wire.sockets import Addresses
from launcher.group_life import GroupLife
from launcher.options import Options
from launcher.spawn import Reaper
from ranks.config import DeviceKind, RankConfig

TRIAL_LIMIT_S = 300.0
"""The ranks of accelerators import torch one by one, which takes minutes on a cold disk."""


async def try_groups(options: Options, kind: DeviceKind, folder: Path) -> list[str]:
    """Try the devices of all groups at once; return what is wrong, a text for each group at fault.

    Args:
        options: How many groups of how many ranks.
        kind: What the ranks compute on.
        folder: An empty one, for the ranks to meet in.
    """
    reaper = Reaper()
    reaper.start()
    configs = [_config(options, kind, folder, index) for index in range(options.groups)]
    failures = await asyncio.gather(*(_try_group(reaper, config) for config in configs))
    return [failure for failure in failures if failure is not None]


async def _try_group(reaper: Reaper, config: RankConfig) -> str | None:
    life = GroupLife(reaper, config, "ranks")
    ending = asyncio.create_task(life.live(TRIAL_LIMIT_S))
    ready = asyncio.create_task(life.ready.wait())
    await asyncio.wait([ending, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if life.ready.is_set():
        life.end("the trial is over")
        await ending
        return None
    return await ending


def _config(options: Options, kind: DeviceKind, folder: Path, index: int) -> RankConfig:
    return RankConfig(
        group=f"g{index}",
        epoch=1,
        world_size=options.nproc,
        model_path="",
        device=kind,
        first_device=index * options.nproc,
        addresses=Addresses.in_folder(folder),
        store="",
        rendezvous=str(folder / f"g{index}.rendezvous"),
        parent_pid=os.getpid(),
        is_trial=True,
    )
