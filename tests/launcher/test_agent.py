import asyncio
import tempfile
from pathlib import Path

import zmq
import zmq.asyncio

from broker.wire.group_reports import GroupGone, GroupStarted, group_reports
from broker.wire.sockets import Addresses, bind_router
from launcher.agent import Agent

LIMIT_S = 20.0


async def test_groups_may_start_and_end_while_the_agent_registers() -> None:
    with tempfile.TemporaryDirectory(prefix="wan-") as run_dir:
        addresses = Addresses.in_folder(Path(run_dir))
        agent = Agent(addresses, on_kill=lambda *_: None, on_stop=lambda: None)
        # No broker is connected, so each of these waits in the middle of its work.
        work = [
            asyncio.create_task(agent.report_started("g0", 1, 8)),
            asyncio.create_task(agent.report_started("g1", 1, 8)),
            asyncio.create_task(agent.register()),
            asyncio.create_task(agent.report_gone("g1", 1, "a rank has died")),
        ]
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as broker:
            bind_router(broker, addresses.groups)
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(*work)
                parts = [await broker.recv_multipart() for _ in range(5)]
        agent.close()
    reports = [group_reports.decode(part[1:]) for part in parts]
    assert reports.count(GroupStarted(group="g0", epoch=1, world_size=8)) == 2
    assert reports[-1] in (
        GroupGone(group="g1", epoch=1, reason="a rank has died"),
        GroupStarted(group="g1", epoch=1, world_size=8),
    )
