"""Starts the ranks of every group without a model, to check that their devices work."""

import asyncio
import os
from pathlib import Path

from broker.wire.sockets import Addresses
from launcher.group_life import GroupLife
from launcher.options import Options
from launcher.spawn import Reaper
from ranks.config import DeviceKind, RankConfig

TRIAL_LIMIT_S = 300.0
"""Ranks on accelerators each import torch, which takes minutes from a cold disk."""


async def try_groups(options: Options, kind: DeviceKind, folder: Path) -> list[str]:
    """Try the devices of all groups at once; return one message per failed group.

    `folder` is an empty folder for the ranks' rendezvous files.
    """
    reaper = Reaper()
    reaper.start()
    configs = [_config(options, kind, folder, index) for index in range(options.num_groups)]
    failures = await asyncio.gather(*(_try_group(reaper, config) for config in configs))
    return [failure for failure in failures if failure is not None]


async def _try_group(reaper: Reaper, config: RankConfig) -> str | None:
    group = GroupLife(reaper, config, "ranks")
    ending = asyncio.create_task(group.run(TRIAL_LIMIT_S))
    ready = asyncio.create_task(group.ready.wait())
    await asyncio.wait([ending, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if group.ready.is_set():
        group.end("the trial is over")
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
        attention=options.attention,
        is_trial=True,
    )
