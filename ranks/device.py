"""The devices npu, cuda and cpu, and all differences between them. No other file names them."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from broker.process.cgroup import read_limits
from broker.wire.model_profile import Attention, EightBit
from ranks.attention_choice import (
    AttentionKernels,
    activate,
    choose_attention,
    installed_modules,
    require_sage,
)
from ranks.config import DeviceKind, VaeDtype
from ranks.copy_stream import CopyStream
from ranks.errors import DeviceError
from ranks.host_resources import available_bytes, num_cpus, resident_bytes
from ranks.kernel_trial import can_run
from ranks.model.kernels import KernelForm, Kernels
from ranks.model.quantized_linear import Multiply, multiply_fp8, multiply_fused, multiply_int8

if TYPE_CHECKING:
    from diffusers.models.attention_dispatch import AttentionBackendName

logger = logging.getLogger(__name__)

_BACKENDS: dict[DeviceKind, str] = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}

_VAE_DTYPES: dict[VaeDtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}

_ATTENTION: dict[DeviceKind, str] = {"npu": "_native_npu", "cuda": "native", "cpu": "native"}

# torch takes the first kernel that supports the shape and dtype. A fixed order, so that every rank
# and every start choose the same kernel, and several kernels, because each refuses some shapes.
_CUDA_ATTENTION_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

# Queries meet few keys in cross-attention, where flash attention is the fastest. It also goes first
# where a package has taken its place.
_FLASH_FIRST = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

_FP8_CAPABILITY = (8, 9)
_NPU_OPERATORS = ("npu_dynamic_quant", "npu_quant_matmul")

_NICE = 5


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device of one rank."""

    kind: DeviceKind
    index: int
    num_sharing: int = 1
    """Ranks that share the device's memory: all of a group on the CPU."""
    kernels: KernelForm = "plain"
    """Form of the element-wise operations."""
    attention: AttentionKernels = "torch"
    """What computes attention on it."""
    wanted_vae_dtype: VaeDtype | None = None
    """Dtype of the VAE; None for the usual one of the device."""

    @property
    def attention_backend(self) -> "AttentionBackendName":
        """What computes self-attention."""
        # Importing diffusers takes seconds, and the launcher's probe of the devices needs none.
        from diffusers.models.attention_dispatch import AttentionBackendName

        sage = self.attention == "sage"
        return AttentionBackendName("sage" if sage else _ATTENTION[self.kind])

    def attention_order(self) -> AbstractContextManager[object]:
        """Have torch's kernels tried in a fixed order while the context is open."""
        has_flash = self.attention in ("flash3", "flash4")
        return self._in_order(_FLASH_FIRST if has_flash else _CUDA_ATTENTION_ORDER)

    def attend_across(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Compute cross-attention, always exact; all tensors are `[B, tokens, heads, D]`."""
        from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

        backend = AttentionBackendName(_ATTENTION[self.kind])
        with self._in_order(_FLASH_FIRST):
            attended: torch.Tensor = dispatch_attention_fn(query, key, value, backend=backend)
        return attended

    def _in_order(self, kernels: list[SDPBackend]) -> AbstractContextManager[object]:
        if self.kind != "cuda":
            return nullcontext()
        return sdpa_kernel(kernels, set_priority=True)

    @property
    def name(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.name)

    @property
    def backend(self) -> str:
        return _BACKENDS[self.kind]

    @property
    def bound_device(self) -> torch.device | None:
        # Every rank also creates a gloo group, which accepts a CUDA device but not an NPU.
        return self.torch_device if self.kind == "cuda" else None

    @property
    def model_dtype(self) -> torch.dtype:
        # Float32 on the CPU, for exact tests.
        return torch.float32 if self.kind == "cpu" else torch.bfloat16

    @property
    def vae_dtype(self) -> torch.dtype:
        # On an NPU, 3-D convolutions are slow in float32.
        usual: VaeDtype = "bfloat16" if self.kind == "npu" else "float32"
        return _VAE_DTYPES[self.wanted_vae_dtype or usual]

    @property
    def unusual_vae_dtype(self) -> VaeDtype | None:
        """The dtype of the VAE if it is not the usual one of the device."""
        is_usual = self.vae_dtype == replace(self, wanted_vae_dtype=None).vae_dtype
        return None if is_usual else self.wanted_vae_dtype

    @property
    def has_channels_last(self) -> bool:
        # An NPU has memory formats of its own, which torch_npu chooses.
        return self.kind != "npu"

    @property
    def patience(self) -> float:
        """Factor on the time limits after which a rank counts as hung; 1 on accelerators."""
        return 10.0 if self.kind == "cpu" else 1.0

    def memory_bytes(self) -> int:
        if self.kind == "cpu":
            return resident_bytes()
        # All that is reserved: no other process can use the gaps between tensors.
        return int(_runtime(self.kind).memory_reserved(self.index))

    def capacity_bytes(self) -> int:
        if self.kind == "cpu":
            physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return min(physical, read_limits().memory_bytes or physical) // self.num_sharing
        return int(_runtime(self.kind).mem_get_info(self.index)[1])

    @property
    def has_own_memory(self) -> bool:
        """Whether weights in host memory take nothing of the device's."""
        return self.kind != "cpu"

    def host_bytes(self, num_ranks: int) -> int:
        """Return the host memory that is free for each of the ranks on this machine."""
        free = available_bytes()
        limit = read_limits().memory_bytes
        return (free if limit is None else min(free, limit)) // num_ranks

    def choose_kernels(self) -> KernelForm:
        # On the CPU compiling takes longer than a short job.
        if self.kind == "npu":
            forms: tuple[KernelForm, ...] = ("vendor",)
        elif self.kind == "cpu" or os.environ.get("TORCH_COMPILE_DISABLE") == "1":
            forms = ()
        else:
            forms = ("triton", "compiled")
        return next((form for form in forms if can_run(form, self.torch_device)), "plain")

    def choose_multiply(self, form: EightBit) -> Multiply:
        """Return the product of tokens with 8-bit weights."""
        if self.kind == "npu":
            return multiply_fused
        multiply = multiply_fp8 if form == "fp8" else multiply_int8
        return partial(multiply, quantize=Kernels(self.kernels).quantize_rows)

    def lower_priority(self) -> None:
        # Of this thread and those it starts. Otherwise a status request would wait for CPU time in
        # every process that it passes.
        if self.kind == "cpu":
            os.nice(_NICE)

    def free_memory(self) -> None:
        if self.kind != "cpu":
            _runtime(self.kind).empty_cache()

    def record_event(self) -> torch.Event | None:
        """Return an event after all work that is queued; None if none is queued, as on the CPU."""
        if self.kind == "cpu":
            return None
        event: torch.Event = _runtime(self.kind).current_stream().record_event()
        return event

    def synchronize(self) -> None:
        if self.kind != "cpu":
            _runtime(self.kind).synchronize()

    def empty_host(self, num_bytes: int) -> torch.Tensor:
        """Return bytes in host memory; pinned, so that copies from them run beside kernels."""
        return torch.empty(
            num_bytes, dtype=torch.uint8, device="cpu", pin_memory=self.kind != "cpu"
        )

    def copy_stream(self) -> CopyStream:
        return CopyStream(None if self.kind == "cpu" else _runtime(self.kind))


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Return values on the CPU; what an accelerator computes is copied to pinned memory."""
    if values.device.type == "cpu":
        return values
    # Not pinned anew each time: torch keeps the memory of tensors that are gone.
    host = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    return host.copy_(values)


def open_device(
    wanted: str, local_rank: int, world_size: int, attention: Attention = "exact"
) -> Device:
    """Select the device of a rank, and limit its CPU threads.

    Args:
        wanted: `auto` or a device kind.
        local_rank: Index of the device among those that this process sees.
        world_size: Number of ranks that share the CPU cores.
        attention: As `--attention` spells it.

    Raises:
        DeviceError: If there is no such device, or if it cannot compute such attention.
    """
    kind = find_kind(wanted)
    require_attention(kind, attention)
    # On accelerators, too: every rank computes solver and noise on the CPU at the same time.
    torch.set_num_threads(max(1, num_cpus() // world_size))
    if kind == "cpu":
        return Device(kind=kind, index=0, num_sharing=world_size)
    require_devices(kind, local_rank + 1)
    _runtime(kind).set_device(local_rank)
    device = Device(kind=kind, index=local_rank)
    return replace(device, attention=_activate_attention(device, attention))


def find_kind(wanted: str) -> DeviceKind:
    """Return the device kind for `auto` or a kind.

    Raises:
        DeviceError: If torch sees no such device.
    """
    kinds: tuple[DeviceKind, ...] = ("npu", "cuda", "cpu")
    if wanted == "auto":
        return next(kind for kind in kinds if _is_available(kind))
    for kind in kinds:
        if wanted == kind and _is_available(kind):
            return kind
    raise DeviceError(
        f"device {wanted} was asked for, but torch sees none; "
        "--device auto takes the best available, --device cpu always works"
    )


def require_8bit(kind: DeviceKind, form: EightBit) -> None:
    """Check that a kind of device can multiply 8-bit numbers of a form.

    Raises:
        DeviceError: If not.
    """
    if kind == "npu" and form == "fp8":
        raise DeviceError(
            "the model's 8-bit weights are in fp8, but an NPU multiplies int8 only; use "
            "--quantize int8, or weights that are stored as int8"
        )
    if kind == "npu" and not all(hasattr(torch.ops.npu, name) for name in _NPU_OPERATORS):
        raise DeviceError(
            f"8-bit weights need torch_npu's {' and '.join(_NPU_OPERATORS)}, which this release "
            "lacks; install the one of constraints.txt, or use plain weights"
        )
    if kind == "cuda" and form == "fp8":
        found = min(
            torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())
        )
        if found < _FP8_CAPABILITY:
            raise DeviceError(
                f"the model's 8-bit weights are in fp8, which needs GPUs of compute capability "
                f"{_dotted(_FP8_CAPABILITY)} or more, but there is one of {_dotted(found)}; use "
                "--quantize int8, or weights that are stored as int8"
            )


def require_attention(kind: DeviceKind, wanted: Attention) -> None:
    """Check that a kind of device can compute attention as `--attention` asks for it.

    Raises:
        DeviceError: If not.
    """
    if wanted == "exact":
        return
    if kind != "cuda":
        raise DeviceError(
            f"SageAttention needs NVIDIA GPUs, and the ranks use {kind}; leave --attention out"
        )
    require_sage()


def _activate_attention(device: Device, wanted: Attention) -> AttentionKernels:
    if device.kind != "cuda":
        return "torch"
    capability = torch.cuda.get_device_capability(device.index)
    kernels = choose_attention(wanted, capability, installed_modules())

    def attend() -> None:
        tokens = torch.ones(1, 64, 2, 128, dtype=device.model_dtype, device=device.torch_device)
        device.attend_across(tokens, tokens, tokens)
        device.synchronize()

    return activate(kernels, attend)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def require_devices(kind: DeviceKind, count: int) -> None:
    """Check that there is a device for each of `count` ranks; any number of ranks share a CPU.

    Raises:
        DeviceError: If not.
    """
    num_devices = count_devices(kind)
    if num_devices is not None and num_devices < count:
        raise DeviceError(
            f"{count} {kind} devices are needed, one a rank, but there are {num_devices}; "
            "lower --nproc"
        )


def count_devices(kind: DeviceKind) -> int | None:
    """Return the number of accelerators that this process sees, or None for the CPU."""
    return None if kind == "cpu" else int(_runtime(kind).device_count())


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator, and some NPU operators, raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(
        mark in str(error) for mark in ("out of memory", "can't allocate memory")
    )


def _is_available(kind: DeviceKind) -> bool:
    if kind == "npu":
        # If torch_npu is installed, torch loads it by itself; nothing here imports it.
        return hasattr(torch, "npu") and bool(torch.npu.is_available())
    return kind == "cpu" or torch.cuda.is_available()


def _runtime(kind: DeviceKind) -> Any:
    return getattr(torch, kind)
