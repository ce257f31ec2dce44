"""Rates of a device: matrix products and attention, at the shapes of the 14B model."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.attention
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ranks.device import Device
from ranks.environment import DEFAULTS
from ranks.model.kernels import quantize_rows
from tests.bench.budget import Works
from tests.bench.random_models import Size
from tests.bench.report import machine


def machine_of(device: Device) -> dict[str, str]:
    """Return the device, software versions and environment that the figures depend on."""
    names: dict[str, str] = {"device": device.kind}
    if device.kind == "cuda":
        names["device"] = torch.cuda.get_device_name()
        names["cudnn"] = str(torch.backends.cudnn.version())
    names["memory_gb"] = f"{device.capacity_bytes() / 1e9:.0f}"
    names["threads"] = str(torch.get_num_threads())
    return machine() | names | {name: os.environ.get(name, "") for name in DEFAULTS}


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


def product_rates(device: Device, size: Size) -> Works:
    """Yield the products of a block's linear layers, in bfloat16 and in fp8 by rows."""
    config = size.config("transformer")
    width, num_tokens = _width(size), size.num_tokens
    for inputs, outputs in ((width, width), (width, config["ffn_dim"]), (config["ffn_dim"], width)):
        name = f"product/{num_tokens} x {inputs} x {outputs}"
        flops = 2 * num_tokens * inputs * outputs
        tokens = _draw(device, num_tokens, inputs)
        weight, bias = _draw(device, outputs, inputs), _draw(device, outputs)
        yield (
            f"{name}, bfloat16",
            partial(
                _rate, device, flops, partial(torch.nn.functional.linear, tokens, weight, bias)
            ),
        )
        yield f"{name}, fp8", partial(_fp8_rate, device, flops, tokens, weight, bias)


def _fp8_rate(
    device: Device, flops: float, tokens: Tensor, weight: Tensor, bias: Tensor
) -> dict[str, float]:
    """Return the rate of a product whose tokens are fp8 already; rounding them is a kernel."""
    (numbers, scale), (weights, weight_scale) = (
        quantize_rows(rows, torch.float8_e4m3fn) for rows in (tokens, weight)
    )
    multiply = partial(
        torch._scaled_mm,
        numbers,
        weights.t(),
        scale_a=scale,
        scale_b=weight_scale.t(),
        bias=bias,
        out_dtype=tokens.dtype,
    )
    return _rate(device, flops, multiply)


def attention_rates(device: Device, size: Size) -> Works:
    """Yield attention as the blocks call it, by kernel: all heads on one rank, and on one of eight.

    Queries, keys and values are views of one tensor, as in a block; "contiguous" ones are not.
    """
    config = size.config("transformer")
    num_tokens, num_heads = size.num_tokens, config["num_attention_heads"]
    channels = config["attention_head_dim"]
    own = _draw(device, 1, num_tokens, 3, num_heads, channels).unbind(2)
    apart = tuple(part.contiguous() for part in own)
    share = tuple(part[:, :, : max(1, num_heads // 4)] for part in own)
    yield "attention/as served", partial(_attend, device, own)
    yield "attention/as served, 2 x 4 ranks", partial(_attend, device, share)
    for number in (512, 257):
        query, key_value = apart[0], _draw(device, 1, number, 2, num_heads, channels).unbind(2)
        cross = (query, *key_value)
        yield f"attention/{number} keys, as served", partial(_attend, device, cross)
        for kernel in _KERNELS:
            yield (
                f"attention/{number} keys, {kernel.name}",
                partial(_attend_by, device, cross, kernel),
            )
    for kernel in _KERNELS:
        yield f"attention/{kernel.name}", partial(_attend_by, device, own, kernel)
        yield f"attention/{kernel.name}, contiguous", partial(_attend_by, device, apart, kernel)
    for name in ("FA4", "FA3"):
        yield f"attention/{name}", partial(_attend_by_other_flash, device, own, name)


_KERNELS = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)


def _attend(
    device: Device,
    qkv: tuple[Tensor, ...],
    choice: AbstractContextManager[object] | None = None,
) -> dict[str, float]:
    query, key, _ = qkv
    flops = 4 * query.shape[1] * key.shape[1] * query.shape[2] * query.shape[3]
    attend = partial(dispatch_attention_fn, *qkv, backend=device.attention_backend)
    with choice or nullcontext():
        return _rate(device, flops, attend)


def _attend_by(device: Device, qkv: tuple[Tensor, ...], kernel: SDPBackend) -> dict[str, float]:
    return _attend(device, qkv, sdpa_kernel(kernel))


def _attend_by_other_flash(device: Device, qkv: tuple[Tensor, ...], name: str) -> dict[str, float]:
    return _attend(device, qkv, _other_flash(name))


@contextmanager
def _other_flash(name: str) -> Iterator[None]:
    """Let torch take another implementation of flash attention, where it is installed."""
    torch.nn.attention.activate_flash_attention_impl(name)
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            yield
    finally:
        torch.nn.attention.restore_flash_attention_impl()


def _rate(device: Device, flops: float, work: Callable[[], object]) -> dict[str, float]:
    taken_s = time_s(device, work)
    return {"ms": taken_s * 1e3, "tflops": flops / taken_s / 1e12}


def _draw(device: Device, *shape: int) -> Tensor:
    return torch.randn(shape, device=device.torch_device, dtype=torch.bfloat16)


def _width(size: Size) -> int:
    config = size.config("transformer")
    return int(config["num_attention_heads"] * config["attention_head_dim"])
