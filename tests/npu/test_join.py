"""What any start does first: ranks join their process group, and `--check` has them compute."""

import sys
from pathlib import Path

from tests.npu.stand_in import StandIn

SCRIPT = """
import sys
from ranks.device import open_device
from ranks.parallel.process_group import join, leave

world = join(sys.argv[1], 0, 1, open_device("npu", 0, 1))
assert world.smallest(3) == 3
leave()
"""


def test_a_rank_joins_its_process_groups(npu: StandIn, tmp_path: Path) -> None:
    """Fails if a device is bound for which gloo, the control group's backend, is not registered."""
    process = npu.start(sys.executable, "-c", SCRIPT, str(tmp_path / "rendezvous"))
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_check_before_a_start_tries_the_devices(npu: StandIn, tmp_path: Path) -> None:
    flags = ("--device", "npu", "--nproc", "2", "--state-dir", str(tmp_path / "state"))
    process = npu.start(sys.executable, "launch.py", "--demo", "--check", "--port", "0", *flags)
    answer, _ = process.communicate(timeout=120)
    assert "2 ranks computed on npu and exchanged results" in answer
    assert process.returncode == 0
