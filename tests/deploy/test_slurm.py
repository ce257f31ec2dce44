"""The batch script of `deploy/slurm/`, run with stubs for Python and for SLURM's commands."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, launched, shown_commands, stop_limit_s
from tests.running_server import until
from tests.session_guard import VARIABLE as SESSION

SCRIPT = DEPLOY / "slurm" / "wan-ranks-group.sbatch"
VARIABLES = {
    "WAN_JOIN": "tcp://server:5570",
    "WAN_CURVE_KEYS": "keys/peer",
    "WAN_STORE": "files",
}
LIMIT_S = 20.0

# It takes a moment to end, like a launcher that lets its job finish.
LAUNCHER = """#!/usr/bin/env bash
trap 'sleep 0.3; echo drained >> calls; exit 0' TERM
echo "$@" >> calls
[[ -d $WAN_STATE_DIR ]] && echo "$WAN_STATE_DIR" > state
while :; do sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
echo scontrol "$@" >> calls
"""


def test_shellcheck_finds_no_fault() -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    for words in (["bash", "-n"], [str(checker)]):
        subprocess.run([*words, str(SCRIPT)], check=True)


def test_the_signal_comes_early_enough_for_the_running_job() -> None:
    (early,) = re.findall(r"^#SBATCH --signal=B:TERM@(\d+)$", SCRIPT.read_text(), re.M)
    assert float(early) > stop_limit_s(launched(["launch.py", "group"], VARIABLES))


def test_the_page_names_what_the_script_needs() -> None:
    (line,) = [line for line in shown_commands(DEPLOY / "README.md") if line.startswith("sbatch")]
    _, export, script = shlex.split(line)
    exported = dict(pair.split("=", 1) for pair in export.split("=", 1)[1].split(",")[1:])
    assert (DEPLOY.parent / script) == SCRIPT
    assert set(re.findall(r"\$\{(\w+):\?", SCRIPT.read_text())) <= set(exported)
    assert launched(["launch.py", "group"], exported).options.join == VARIABLES["WAN_JOIN"]


@contextmanager
def submitted(folder: Path, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the script as SLURM does, in the project's folder."""
    for name, text in ((".venv/bin/python", LAUNCHER), ("bin/scontrol", SCONTROL)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environ = {"PATH": path, "SLURM_JOB_ID": "17", "TMPDIR": str(folder), **variables}
    # So that the guard of the test run finds it.
    environ |= {SESSION: os.environ.get(SESSION, "")}
    script = subprocess.Popen(["bash", str(SCRIPT)], cwd=folder, env=environ)
    try:
        yield script
    finally:
        script.kill()
        script.wait()


@pytest.mark.parametrize(
    ("number", "last"), [(signal.SIGTERM, "scontrol requeue 17"), (signal.SIGINT, "drained")]
)
async def test_on_a_signal_it_waits_for_the_launcher_and_sigterm_requeues_it(
    tmp_path: Path, number: signal.Signals, last: str
) -> None:
    with submitted(tmp_path, **VARIABLES) as script:
        await until((tmp_path / "state").exists, LIMIT_S)
        script.send_signal(number)
        assert await asyncio.to_thread(script.wait, LIMIT_S) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1] == "drained"
    assert calls[-1] == last
    command = launched(calls[0].split(), VARIABLES)
    assert (command.role, command.options.nproc) == ("group", 8)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("tmp.")]


async def test_without_a_server_to_join_it_fails(tmp_path: Path) -> None:
    with submitted(tmp_path) as script:
        assert await asyncio.to_thread(script.wait, LIMIT_S) == 1
    assert not (tmp_path / "calls").exists()
