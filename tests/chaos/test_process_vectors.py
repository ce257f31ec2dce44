"""The recipes about processes in `bad_inputs.json`: tests of some, and where the others are."""

import ast
import asyncio
import signal
import socket
from pathlib import Path

import msgspec
import pytest

from broker.config import BrokerConfig
from broker.wire.job import JobState
from broker.wire.sockets import Addresses
from tests.broker.driver import Front, broker_config, run_to_the_end, running_broker
from tests.chaos.server import ChaosServer
from tests.chaos.test_drain import exit_code, journal_of
from tests.http_front.vectors import cases
from tests.running_server import RunningServer, calling

ROOT = Path(__file__).parents[2]
END_LIMIT_S = 10.0
HERE = "tests/chaos/test_process_vectors.py"
FOLLOWED = {
    "process-117-socket": f"{HERE}::test_a_second_broker_is_refused_by_socket_and_by_journal",
    "process-117-db": f"{HERE}::test_a_second_broker_is_refused_by_socket_and_by_journal",
    "process-119-insert": "tests/http_front/test_full_disk.py"
    "::test_a_full_disk_is_reported_and_loses_no_job_and_needs_no_restart",
    "process-119-video": "tests/ranks/test_full_disk.py"
    "::test_a_video_is_written_once_a_full_disk_has_room",
    "process-119-checkpoint": "tests/broker/journal/test_disk_faults.py"
    "::test_a_full_disk_changes_nothing_and_the_journal_stays_usable",
    "process-123": f"{HERE}::test_a_taken_port_ends_the_start_with_its_number",
    "process-124-kill-rank": "tests/chaos/test_rank_deaths.py"
    "::test_a_killed_rank_is_noticed_its_group_reaped_and_the_job_done",
    "process-124-stop-rank": "tests/chaos/test_hangs.py"
    "::test_a_stopped_rank_is_noticed_within_ten_seconds_and_a_tick",
    "process-124-kill-broker": "tests/chaos/test_kills.py"
    "::test_no_kill_at_any_time_loses_or_doubles_a_job",
    "process-124-kill-front": "tests/test_server.py"
    "::test_a_dead_front_and_a_dead_broker_are_started_again_alone",
    "process-124-kill-launcher": "tests/chaos/test_launcher_deaths.py"
    "::test_a_killed_launcher_leaves_no_process_and_no_socket",
    "process-124-term-twice": f"{HERE}::test_a_second_sigterm_ends_at_once_and_costs_no_attempt",
    "process-124-hup": "tests/test_server.py::test_a_closed_terminal_ends_nothing",
    "process-124-pipe": "tests/test_server.py::test_a_closed_terminal_ends_nothing",
}


@pytest.mark.parametrize("name", [case.id for case in cases("process", "recipe")])
def test_every_recipe_is_followed_somewhere(name: str) -> None:
    file, _, test = FOLLOWED[name].partition("::")
    tree = ast.parse((ROOT / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert test in {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize("with_sockets", [True, False], ids=["same sockets", "others"])
async def test_a_second_broker_is_refused_by_socket_and_by_journal(
    tmp_path: Path, with_sockets: bool
) -> None:
    config = broker_config(tmp_path)
    (tmp_path / "b").mkdir(mode=0o700)
    other = config.addresses if with_sockets else Addresses.in_folder(tmp_path / "b")
    async with running_broker(config), Front(config) as front:
        await front.submit_ok()
        before = files_of(config)
        async with asyncio.timeout(END_LIMIT_S):
            code, log = await run_to_the_end(msgspec.structs.replace(config, addresses=other))
        assert code == 75
        assert f"another broker uses the state directory {config.state_dir}" in log
        assert files_of(config) == before
        await front.submit_ok()


def files_of(config: BrokerConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(config.state_dir).glob("jobs.sqlite3*")}


async def test_a_taken_port_ends_the_start_with_its_number(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = RunningServer(
            tmp_path / "state",
            *("--device", "cpu", "--port", str(port), "--demo", "--nproc", "2"),
            command=["launch.py"],
        )
        try:
            assert await asyncio.to_thread(server.process.wait, 3 * END_LIMIT_S) == 1
            assert f"port {port} on 127.0.0.1 is taken" in server.log()
            await server.wait_until_gone(END_LIMIT_S)
        finally:
            server.end()


async def test_a_second_sigterm_ends_at_once_and_costs_no_attempt(tmp_path: Path) -> None:
    server = ChaosServer(tmp_path, step_s=0.5, num_steps=1000)
    try:
        await server.start()
        async with calling(server.life) as caller:
            job_id = await caller.submit()
            await caller.wait_for(job_id, stage="denoise")
        server.life.process.send_signal(signal.SIGTERM)
        await server.life.wait_until_logged("stopping", END_LIMIT_S)
        server.life.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2 * END_LIMIT_S):
            await exit_code(server)
        await server.life.wait_until_gone(END_LIMIT_S)
        (job,) = journal_of(server)
        assert (job.job_id, job.state, job.num_lost) == (job_id, JobState.IN_QUEUE, 0)
    finally:
        server.end()
