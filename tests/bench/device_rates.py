"""Peak rates of a device: plain matrix products, and attention at the real shape."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ranks.device import Device
from tests.bench.random_models import Size
from tests.bench.report import machine


def machine_of(device: Device) -> dict[str, str]:
    """Return the device and software versions that the figures depend on."""
    names: dict[str, str] = {"device": device.kind}
    if device.kind == "cuda":
        names["device"] = torch.cuda.get_device_name()
    return machine() | names


def time_s(
    device: Device, work: Callable[[], object], repeats: int = 3, warm_ups: int = 1
) -> float:
    """Return the median time of a call, after warm-up calls."""
    times = []
    for _ in range(warm_ups + repeats):
        device.synchronize()
        begun = time.perf_counter()
        work()
        device.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[warm_ups:])


def peak_gb(device: Device, work: Callable[[], object]) -> float:
    """Return the peak memory allocated during a call; 0 on devices without a counter."""
    if device.kind != "cuda":
        work()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 1e9


def matmul_tflops(device: Device, side: int) -> float:
    """Return the rate of a product of square random matrices in bfloat16."""
    left, right = (
        torch.randn(side, side, device=device.torch_device, dtype=torch.bfloat16) for _ in range(2)
    )
    taken_s = time_s(device, lambda: left @ right, repeats=9)
    return 2 * side**3 / taken_s / 1e12


def attention_rates(device: Device, size: Size) -> dict[str, float | str]:
    """Return the rate of each attention kernel of the device, at the shape of one rank of eight."""
    config = size.config("transformer")
    frames, height, width = size.shape
    num_tokens, num_heads = frames * height * width // 4, config["num_attention_heads"]
    shape = (1, num_tokens, max(1, num_heads // 8), config["attention_head_dim"])
    query, key, value = (
        torch.randn(shape, device=device.torch_device, dtype=torch.bfloat16) for _ in range(3)
    )
    flops = 4 * num_tokens**2 * shape[2] * shape[3]
    rates: dict[str, float | str] = {}
    attend = partial(dispatch_attention_fn, query, key, value, backend=device.attention_backend)
    rates["as served"] = flops / time_s(device, attend) / 1e12
    for kernel in (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
    ):
        try:
            with sdpa_kernel(kernel):
                rates[kernel.name] = flops / time_s(device, attend) / 1e12
        except RuntimeError as error:
            rates[kernel.name] = str(error)[:200]
    return rates
