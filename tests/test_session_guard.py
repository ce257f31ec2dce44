"""A test run that is killed leaves no process behind."""

import asyncio
import sys

from tests.running_server import ROOT, until
from tests.session_guard import VARIABLE, marked_pids

LIMIT_S = 30.0
RUN = f"""
import os, signal, subprocess
from tests.session_guard import start_guard
os.environ.pop("{VARIABLE}", None)
start_guard()
# As a walkthrough starts a server: in the background of a shell, in a session of its own.
shell = ["bash", "-c", "sleep 600 & echo started; sleep 600"]
process = subprocess.Popen(shell, stdout=subprocess.PIPE, start_new_session=True)
process.stdout.readline()
print(os.environ["{VARIABLE}"], flush=True)
signal.pause()
"""


async def test_a_killed_test_run_leaves_no_process_behind() -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert run.stdout is not None
    mark = (await run.stdout.readline()).decode().strip()
    pids = marked_pids(mark)
    run.kill()
    await run.wait()
    assert len(pids) >= 2
    await until(lambda: not marked_pids(mark), LIMIT_S)
