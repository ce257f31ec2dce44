"""What any start does first: ranks join their process group, and `--check` has them compute."""

import os
import subprocess
import sys
from pathlib import Path

from tests.npu.host import Host
from tests.npu.stand_in import StandIn
from tests.running_server import ROOT


def test_a_rank_joins_its_process_groups(host: Host, tmp_path: Path) -> None:
    """Fails if a device is bound for which gloo, the control group's backend, is not registered."""
    joining = host.start("tests.npu.forked:join_alone", str(tmp_path / "rendezvous"))
    assert joining.communicate() == "3"


def test_ranks_share_the_processor_cores(host: Host) -> None:
    """They compute solver and noise on the CPU, all at the same time."""
    opening = host.start("tests.npu.forked:count_threads", "12", "4")
    assert opening.communicate() == "3"


def test_the_check_before_a_start_tries_the_devices(
    npu: StandIn, demo_folder: Path, tmp_path: Path
) -> None:
    command = ("launch.py", "--check", "--device", "npu", "--nproc", "2", "--port", "0")
    folders = ("--model-path", str(demo_folder), "--state-dir", str(tmp_path / "state"))
    process = subprocess.run(
        [sys.executable, *command, *folders],
        cwd=ROOT,
        env=os.environ | npu.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "2 ranks computed on npu and exchanged results" in process.stdout
    assert process.returncode == 0
