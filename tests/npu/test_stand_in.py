"""What the stand-in refuses, counts and does, without which the other tests would prove little."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.npu.host import Host

REFUSED = {
    "x + torch.ones(2, 2)": "found at least two devices, npu:1 and cpu!",
    "torch.cat([x, torch.ones(2, 2)])": "found at least two devices, npu:1 and cpu!",
    "torch.ones(2, device='npu:0')": "foreign device: npu:0 is used where npu:1 is current",
    "torch.ones(2, device='npu:9')": "Invalid NPU device index 9; there are 8",
    "x.double()": "Double is not supported on the NPU",
    "torch.ones(2, device='npu:1', dtype=torch.float64)": "Double is not supported on the NPU",
    "torch.polar(x, x)": "ComplexFloat is not supported on the NPU",
    "x.reshape(1, 1, 1, 1, 1, 1, 1, 2, 2) + 1": "9 dimensions; the NPU takes 8",
    "torch.special.bessel_j0(x)": "would fall back to the CPU",
    "torch.empty(1 << 32, device='npu:1')": "NPU out of memory. Tried to allocate 17179869184",
}
ALLOWED = {
    "(x + 1).sum().item()": "8.0",
    "(x * torch.tensor(2.0)).tolist()": "[[2.0, 2.0], [2.0, 2.0]]",
    "(x.bfloat16() @ x.bfloat16()).dtype": "torch.bfloat16",
    "torch.empty(2, device='npu').isnan().all().item()": "True",
    "torch.add(x, 1, out=torch.empty(0, device='npu')).shape": "torch.Size([2, 2])",
    "x.t_().add_(1).device": "npu:1",
    "x[0].fill_(3).sum().item() + x.sum().item()": "14.0",
    "x.to(torch.int64).cpu().tolist()": "[[1, 1], [1, 1]]",
    "torch.distributed.batch_isend_irecv.__name__": "_batch_isend_irecv",  # torch_npu's
}


@pytest.fixture(scope="module")
def values(host: Host) -> dict[str, str]:
    evaluating = host.start("tests.npu.forked:evaluate")
    values: dict[str, str] = json.loads(evaluating.communicate(json.dumps([*REFUSED, *ALLOWED])))
    return values


@pytest.mark.parametrize("expression", REFUSED)
def test_what_an_npu_cannot_do_is_refused(values: dict[str, str], expression: str) -> None:
    assert REFUSED[expression] in values[expression]


@pytest.mark.parametrize("expression", ALLOWED)
def test_what_an_npu_can_do_is_done(values: dict[str, str], expression: str) -> None:
    assert values[expression] == ALLOWED[expression]


def test_a_process_that_has_used_a_device_cannot_go_on_in_a_fork(host: Host) -> None:
    answer = host.start("tests.npu.forked:fork", "touched").communicate()
    assert answer == "Cannot re-initialize NPU in forked subprocess"


def test_a_process_that_has_only_counted_devices_can(host: Host) -> None:
    assert host.start("tests.npu.forked:fork", "counted").communicate() == "used"


def test_a_collective_waits_for_a_lost_peer_until_its_time_is_up(
    host: Host, tmp_path: Path
) -> None:
    """Recovery must not depend on an error that comes at once, as gloo's does."""
    rendezvous = str(tmp_path / "rendezvous")
    ranks = [
        host.start("tests.npu.forked:lose_a_peer", rendezvous, str(rank), "1") for rank in range(2)
    ]
    waited_s, _ = (rank.communicate() for rank in ranks)
    assert 1.0 <= float(waited_s) < 30.0


def test_this_process_has_no_npu() -> None:
    assert "torch_npu" not in sys.modules
    assert "NPU_STAND_IN_LIBRARY" not in os.environ
