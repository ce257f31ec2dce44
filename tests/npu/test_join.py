"""What any start does first: ranks join their process group."""

from pathlib import Path

from tests.npu.host import Host


def test_a_rank_joins_its_process_groups(host: Host, tmp_path: Path) -> None:
    """Fails if a device is bound for which gloo, the control group's backend, is not registered."""
    joining = host.start("tests.npu.forked:join_alone", str(tmp_path / "rendezvous"))
    assert joining.communicate() == "3"


def test_ranks_share_the_processor_cores(host: Host) -> None:
    """They compute solver and noise on the CPU, all at the same time."""
    opening = host.start("tests.npu.forked:count_threads", "12", "4")
    assert opening.communicate() == "3"
