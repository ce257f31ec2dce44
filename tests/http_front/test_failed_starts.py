"""A front that cannot start says so in one line and ends."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from broker.wire.sockets import Addresses
from http_front.config import FrontConfig

LIMIT_S = 20.0


@pytest.mark.parametrize(
    ("fault", "text"),
    [("no keys", "is no CURVE key"), ("no store", "Not a directory")],
)
async def test_a_front_that_cannot_start_ends_with_one_line(
    tmp_path: Path, fault: str, text: str
) -> None:
    keys, store = tmp_path / "keys", tmp_path / "store"
    if fault == "no store":
        store.touch()
    config = FrontConfig(
        addresses=Addresses.on_tcp("tcp://127.0.0.1:1", keys),
        store=str(store / "folder"),
        work_dir=str(tmp_path),
        port=0,
        parent_pid=os.getpid(),
    )
    front = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "http_front", msgspec.json.encode(config).decode()),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            _, log = await front.communicate()
    finally:
        if front.returncode is None:
            front.kill()
            await front.wait()
    assert front.returncode == 1
    (line,) = [line for line in log.decode().splitlines() if line]
    assert " ERROR front " in line
    assert text in line
