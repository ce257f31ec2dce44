"""`python -m tests.chaos.stub_ranks JSON`: a starter process whose ranks need no torch.

As in the product, ranks are forked and become the launcher's children; rank 0 leads, every rank
sends heartbeats, and all leave together. Loading and working take milliseconds.
"""

import asyncio
import os
import signal
import sys
import time
from typing import NoReturn

import msgspec
import zmq

from broker.process.child import begin, report
from broker.wire.job import Stage
from broker.wire.rank_messages import rank_messages
from broker.wire.sockets import connect_pub
from ranks.config import RankConfig
from tests.chaos.ledger import Ledger
from tests.chaos.stub_leader import Activity, Leader
from tests.chaos.stub_settings import StubSettings


def main() -> None:
    """Fork the ranks of one epoch of a group."""
    config = msgspec.json.decode(sys.argv[1], type=RankConfig)
    begin(f"{config.group}/starter", config.parent_pid, config.log_format)
    activity = Activity()
    starter_pid = os.getpid()
    for rank in range(config.world_size):
        if (pid := os.fork()) == 0:
            live(config, rank, activity, starter_pid)
        report(config.ready_fd, f"born {rank} {pid}")
    os._exit(0)


def live(config: RankConfig, rank: int, activity: Activity, starter_pid: int) -> NoReturn:
    while os.getppid() == starter_pid:
        time.sleep(0.002)
    begin(f"{config.group}/rank-{rank}", config.parent_pid, config.log_format)
    settings = StubSettings.inherited()
    ledger = Ledger(settings.ledger, config.group, config.epoch)
    ledger.write("born", rank=rank, pid=os.getpid())
    if rank == 0:
        asyncio.run(lead(config, settings, activity, ledger))
    else:
        follow(config, rank, settings, activity)
    os._exit(0)


async def lead(
    config: RankConfig, settings: StubSettings, activity: Activity, ledger: Ledger
) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    leader = Leader(config, settings, activity, ledger)
    if settings.load_error:
        report(config.ready_fd, f"failed 0 {settings.load_error}")
        os._exit(1)
    await leader.pass_by("load")
    leader.show(Stage.IDLE)
    async with leader:
        report(config.ready_fd, "ready 0")
        await stopped.wait()
        await leader.stop_running()
    activity.leave()


def follow(config: RankConfig, rank: int, settings: StubSettings, activity: Activity) -> None:
    """Send heartbeats until rank 0 leaves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report(config.ready_fd, f"ready {rank}")
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        connect_pub(socket, config.addresses.beats)
        while not activity.is_leaving:
            socket.send_multipart(rank_messages.encode(activity.heartbeat(config, rank)))
            time.sleep(settings.beat_every_s)


if __name__ == "__main__":
    main()
