"""The log lines of a job carry its id, in every process."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.server import chaos_server
from tests.running_server import calling


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not under tmp_path: its names are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as name:
        yield Path(name)


def lines_about(job_id: str, log: str) -> list[dict[str, Any]]:
    """Return the JSON lines with a job's id; the launcher of the test logs text."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["job_id"] == job_id]


async def test_a_job_can_be_followed_by_its_id_through_all_processes(folder: Path) -> None:
    flags = ("--log-format", "json", "--access-log", "all")
    server = chaos_server(folder, nproc=2, ranks_module="ranks", flags=flags)
    async with server as running, calling(running.life) as caller:
        job_id = await caller.submit()
        await caller.wait_for(job_id, status="Succeed")
        await caller.status(job_id)
        await running.life.wait_until_logged("POST /video/status 200")  # after the answer
        lines = lines_about(job_id, running.life.log())
    messages = [(line["process"], line["message"]) for line in lines]
    broker = [message for process, message in messages if process == "broker"]
    assert broker == ["InQueue", "InProgress, attempt 1 on group g0", "Succeed"]
    rank = [(line["stage"], line["message"]) for line in lines if line["process"] == "g0/rank-0"]
    assert rank[0][1] == "attempt 1 begins"
    assert rank[1:] == [("idle", "decoded"), ("save", "saved")]
    assert {line["rank"] for line in lines if "rank" in line["process"]} == {0}
    front = " ".join(message for process, message in messages if process == "front")
    assert "POST /video/submit 202" in front
    assert "POST /video/status 200" in front
