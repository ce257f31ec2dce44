"""A test run that is killed leaves no process behind."""

import os
import signal
import subprocess
import sys

from tests.running_server import ROOT, until
from tests.session_guard import VARIABLE, marked_pids

LIMIT_S = 30.0
RUN = f"""
import os, signal, subprocess
from tests.session_guard import start_guard
os.environ.pop("{VARIABLE}")
start_guard()
# As a walkthrough starts a server: in the background of a shell, in a session of its own.
shell = ["bash", "-c", "sleep 600 & echo started; sleep 600"]
process = subprocess.Popen(shell, stdout=subprocess.PIPE, start_new_session=True)
process.stdout.readline()
print(os.environ["{VARIABLE}"], flush=True)
signal.pause()
"""


async def test_a_killed_test_run_leaves_no_process_behind() -> None:
    environ = os.environ | {VARIABLE: "outer"}
    with subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        mark = run.stdout.readline().strip()
        pids = marked_pids(mark)
        run.send_signal(signal.SIGKILL)
    assert len(pids) >= 2
    await until(lambda: not marked_pids(mark), LIMIT_S)
