"""The device layer, as far as it goes without an accelerator."""

import os
import subprocess
import sys

import pytest
import torch

from ranks.device import explain_start_failure, find_kind, is_out_of_memory, open_device
from ranks.errors import DeviceError


def test_the_cpu_is_a_device_like_any_other() -> None:
    device = open_device("cpu", 0, 1)
    assert (device.name, device.backend) == ("cpu", "gloo")
    assert device.model_dtype is torch.float32
    assert 0 < device.memory_bytes() < device.capacity_bytes()
    assert not device.can_fuse()


def test_an_absent_device_is_named() -> None:
    with pytest.raises(DeviceError, match=r"device npu was asked for.*--device cpu always works"):
        find_kind("npu")


def test_the_operator_has_the_last_word_on_the_environment() -> None:
    script = (
        "import os; from pathlib import Path; "
        "from ranks.environment import set_environment_defaults as s; s(Path('/private')); "
        "print(*(os.environ[n] for n in ('HCCL_CONNECT_TIMEOUT', 'HCCL_EXEC_TIMEOUT', "
        "'TORCHINDUCTOR_CACHE_DIR')))"
    )
    environment = os.environ | {"HCCL_EXEC_TIMEOUT": "1836"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets it when it compiles
    shown = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert shown.split() == ["120", "1836", "/private/kernels"]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("call HcclGetRootInfo failed, error code 7", "npu-smi info"),
        ("call HcclGetRootInfo failed, error code 11", "ip_local_reserved_ports=60000-60015"),
        ("EJ0003: Failed to bind the IP port", "npu-smi info"),
        ("EI0019: port in use", "HCCL_HOST_SOCKET_PORT_RANGE=auto"),
        ("EI0020: port in use", "HCCL_HOST_SOCKET_PORT_RANGE=auto"),
        ("EI0006: Getting socket times out", "raise HCCL_CONNECT_TIMEOUT"),
        ("libhccl.so: cannot open shared object file", "set_env.sh"),
    ],
)
def test_a_known_failure_to_start_is_explained(text: str, advice: str) -> None:
    explanation = explain_start_failure(f"RuntimeError: {text}")
    assert explanation is not None
    assert advice in explanation


def test_an_unknown_failure_is_left_as_it_is() -> None:
    assert explain_start_failure("KeyError: 'x'") is None


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
