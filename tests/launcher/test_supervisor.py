import asyncio
import os
import signal
import socket
from pathlib import Path

from broker.wire.group_reports import GroupStarted
from broker.wire.job import JobState
from broker.wire.replies import HealthFound
from broker.wire.requests import GetHealth
from launcher.options import Options
from launcher.plan import Plan
from launcher.preflight import Folders, prepare_folders
from launcher.spawn import Child
from launcher.supervisor import Supervisor
from tests.broker.driver import Front, broker_config, running_broker

LIMIT_S = 20.0


def plan_in(state_dir: Path) -> Plan:
    folders = Folders.under(str(state_dir))
    return Plan(
        options=Options(),
        folders=folders,
        addresses=prepare_folders(folders),
        device="cpu",
        pid=os.getpid(),
    )


async def test_a_broker_that_dies_before_the_launcher_registers_is_noticed(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        supervisor = Supervisor(plan, listener)
        supervisor._reaper.start()
        supervisor._broker = Child(supervisor._reaper, "broker", "tests.launcher.dying_broker")
        # A group to register, for which the agent waits for a connection.
        supervisor._agent._groups["g0"] = GroupStarted(group="g0", epoch=1, world_size=8)
        try:
            async with asyncio.timeout(LIMIT_S):
                assert await supervisor._run_broker() == "ended with exit code 9"
        finally:
            supervisor._agent.close()
            asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)


async def test_a_launcher_whose_broker_is_refused_stops_and_drains_no_other(tmp_path: Path) -> None:
    """The lock of a running server may be removed, by a cleaner of /tmp for example."""
    config = broker_config(tmp_path)
    async with running_broker(config), Front(config) as front:
        job_id = await front.submit_ok()
        supervisor = Supervisor(plan_in(tmp_path), None)
        try:
            async with asyncio.timeout(LIMIT_S):
                assert await supervisor.run() == 1
        finally:
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                asyncio.get_running_loop().remove_signal_handler(number)
        assert supervisor._last_error is not None
        assert "the broker cannot start" in supervisor._last_error
        health = await front.ask(GetHealth())
        assert isinstance(health, HealthFound)
        assert not health.draining
        assert (await front.get(job_id)).state is JobState.IN_QUEUE
        await front.submit_ok()
