"""The device layer, as far as it can be tested without an accelerator."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch.nn.attention import SDPBackend

from ranks.device import Device, find_kind, is_out_of_memory, open_device, require_8bit
from ranks.errors import DeviceError
from ranks.start_failure import explain_start_failure


def test_the_cpu_is_a_device() -> None:
    device = open_device("cpu", 0, 1)
    assert (device.name, device.backend) == ("cpu", "gloo")
    assert device.model_dtype is torch.float32
    assert 0 < device.memory_bytes() < device.capacity_bytes()
    assert device.choose_kernels() == "plain"


def test_a_missing_device_is_named() -> None:
    with pytest.raises(DeviceError, match=r"device npu was asked for.*--device cpu always works"):
        find_kind("npu")


def test_ranks_share_the_processor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    num_threads = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    try:
        open_device("cpu", 0, 4)
        assert torch.get_num_threads() == 3
        open_device("cpu", 0, 64)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(num_threads)


def test_attention_falls_back_in_one_order_on_every_rank() -> None:
    """A single kernel refuses some shapes; a measured choice differs between ranks and starts."""
    with Device(kind="cuda", index=0).attention_order():
        assert torch._C._get_sdp_priority_order()[:4] == [
            *(SDPBackend.CUDNN_ATTENTION.value, SDPBackend.FLASH_ATTENTION.value),
            *(SDPBackend.EFFICIENT_ATTENTION.value, SDPBackend.MATH.value),
        ]
        assert Device(kind="cuda", index=0).attention_backend is AttentionBackendName.NATIVE


def test_only_a_kind_whose_gloo_groups_allow_it_is_bound_to_the_process_group() -> None:
    bound = {kind: Device(kind=kind, index=1).bound_device for kind in ("npu", "cuda", "cpu")}
    assert bound == {"npu": None, "cuda": torch.device("cuda:1"), "cpu": None}


def test_an_npu_refuses_fp8_by_name() -> None:
    with pytest.raises(
        DeviceError, match="in fp8, but an NPU multiplies int8 only; use --quantize"
    ):
        require_8bit("npu", "fp8")


def test_fp8_needs_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(9, 0), (8, 0)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
    monkeypatch.setattr(torch.cuda, "get_device_capability", found.__getitem__)
    with pytest.raises(DeviceError, match=r"compute capability 8\.9 or more, but .* one of 8\.0"):
        require_8bit("cuda", "fp8")
    require_8bit("cuda", "int8")
    found[1] = (8, 9)
    require_8bit("cuda", "fp8")


COMPILE = """
import logging, sys, torch
from ranks.kernel_trial import can_run
logging.basicConfig(format="%(message)s")
print(can_run("compiled", torch.device("cpu")))
"""


def try_to_compile(**environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_kernels_are_fused_where_there_is_a_compiler(tmp_path: Path) -> None:
    answer = try_to_compile(TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert (answer.stdout, answer.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        pytest.param("CXX", "/nowhere/compiler", id="no compiler"),
        pytest.param("TORCHINDUCTOR_CACHE_DIR", "/dev/null/kernels", id="no folder to write to"),
    ],
)
def test_what_cannot_be_compiled_is_not_fused(tmp_path: Path, variable: str, value: str) -> None:
    """The rank logs one line and starts with plain kernels."""
    answer = try_to_compile(**{"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), variable: value})
    assert answer.stdout == "False\n"
    (line,) = answer.stderr.splitlines()
    assert line.startswith("compiled kernels do not work here, so steps are slower: ")


def test_environment_variables_of_the_operator_win() -> None:
    script = (
        "import os; from pathlib import Path; "
        "from ranks.environment import set_environment_defaults as s; s(Path('/private')); "
        "print(*(os.environ[n] for n in ('HCCL_CONNECT_TIMEOUT', 'HCCL_EXEC_TIMEOUT', "
        "'TORCHINDUCTOR_CACHE_DIR', 'TRITON_CACHE_DIR', 'TRITON_HOME')))"
    )
    environment = os.environ | {"HCCL_EXEC_TIMEOUT": "1836"}
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        environment.pop(name, None)  # torch sets them when it compiles
    shown = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert shown.split() == [
        *("120", "1836", "/private/kernels", "/private/kernels/triton", "/private/kernels")
    ]


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
def test_a_known_start_failure_is_explained(text: str, advice: str) -> None:
    explanation = explain_start_failure(f"RuntimeError: {text}")
    assert explanation is not None
    assert advice in explanation


def test_an_unknown_start_failure_has_no_explanation() -> None:
    assert explain_start_failure("KeyError: 'x'") is None


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
