"""One rank alone joins its process group: the first thing that any start does."""

import sys
from pathlib import Path

from tests.npu.stand_in import StandIn

SCRIPT = """
import sys
from ranks.device import open_device
from ranks.process_group import join, leave

world = join(sys.argv[1], 0, 1, open_device("npu", 0, 1))
assert world.smallest(3) == 3
leave()
"""


def test_a_rank_joins_its_process_groups(npu: StandIn, tmp_path: Path) -> None:
    """Fails if a device is bound for which gloo, the control group's backend, is not registered."""
    process = npu.start(sys.executable, "-c", SCRIPT, str(tmp_path / "rendezvous"))
    process.communicate(timeout=60)
    assert process.returncode == 0
