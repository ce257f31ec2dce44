"""`wan backup` with a running broker."""

import asyncio
import json
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from broker.config import BrokerConfig
from broker.journal.journal import Journal
from tests.broker.driver import Front, broker_config, running_broker
from tests.broker.journal.test_other_versions import written

LIMIT_S = 20.0


@pytest_asyncio.fixture
async def config() -> AsyncIterator[BrokerConfig]:
    # Not in tmp_path, whose path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wan-") as folder:
        yield broker_config(Path(folder))


async def back_up(file: Path, state_dir: str, *flags: str) -> tuple[int, str, str]:
    words = ("backup", str(file), "--state-dir", state_dir, *flags)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "launcher.wan", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_backup_of_a_live_journal_holds_every_accepted_job(
    config: BrokerConfig, tmp_path: Path
) -> None:
    file = tmp_path / "copy.sqlite3"
    async with running_broker(config), Front(config) as front:
        before = [await front.submit_ok() for _ in range(20)]
        code, out, err = await back_up(file, config.state_dir)
        assert (code, err) == (0, "")
        assert out == f"{file}: {file.stat().st_size} bytes\n"
        after = await front.submit_ok()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [file.name]
    journal = Journal(file)
    found = [job.job_id for job in journal.load()]
    journal.close()
    assert found == before
    assert after not in found


def put_in_place(file: Path, state_dir: Path) -> None:
    for path in state_dir.glob("jobs.sqlite3*"):
        path.unlink()
    file.rename(state_dir / "jobs.sqlite3")


async def test_a_broker_starts_on_a_backup(config: BrokerConfig, tmp_path: Path) -> None:
    file = tmp_path / "copy.sqlite3"
    async with running_broker(config) as broker, Front(config) as front:
        job_id = await front.submit_ok()
        assert (await back_up(file, config.state_dir))[0] == 0
        await broker.kill()
        put_in_place(file, Path(config.state_dir))
        await broker.start()
        front.reconnect()
        await front.get(job_id)


async def test_a_backup_never_overwrites_a_file(config: BrokerConfig, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("do not touch")
    async with running_broker(config):
        code, out, err = await back_up(file, config.state_dir)
        assert (code, out) == (2, "")
        # The terminal's width breaks the line.
        assert err.split() == f"wan: {file} exists; a backup does not overwrite files".split()
    assert file.read_text() == "do not touch"


async def test_an_unwritable_target_is_reported_and_the_broker_keeps_running(
    config: BrokerConfig, tmp_path: Path
) -> None:
    async with running_broker(config), Front(config) as front:
        code, _, err = await back_up(tmp_path / "missing" / "copy", config.state_dir)
        assert code == 2
        assert "cannot write" in err
        assert "No such file or directory" in err
        await front.submit_ok()


async def test_without_a_server_the_command_says_so(tmp_path: Path) -> None:
    code, _, err = await back_up(tmp_path / "copy", str(tmp_path))
    assert code == 3
    assert " ".join(err.split()).startswith("wan: no server was started with --state-dir")


async def test_with_json_the_result_is_json(config: BrokerConfig, tmp_path: Path) -> None:
    file = tmp_path / "copy.sqlite3"
    async with running_broker(config):
        _, out, _ = await back_up(file, config.state_dir, "--json")
    assert json.loads(out) == {"file": str(file), "num_bytes": file.stat().st_size}


async def test_the_journal_of_a_stopped_server_is_copied(tmp_path: Path) -> None:
    state_dir, file = tmp_path / "state", tmp_path / "copy.sqlite3"
    state_dir.mkdir()
    written(state_dir / "jobs.sqlite3")
    code, out, err = await back_up(file, str(state_dir))
    assert (code, out, err) == (0, f"{file}: {file.stat().st_size} bytes\n", "")
    code, _, err = await back_up(file, str(state_dir))
    assert (code, "a backup does not overwrite files" in err) == (2, True)
