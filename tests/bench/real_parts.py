"""The parts of `tests.bench.real_size` in the order of their worth, with a limit for each."""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ranks.device import Device, open_device
from tests.bench.budget import Parts
from tests.bench.cost import Clip, forward_flops
from tests.bench.device_rates import attention_rates, machine_of, matmul_tflops, product_rates
from tests.bench.kernel_rates import kernel_rates
from tests.bench.random_models import MINIATURE, REAL, Size
from tests.bench.real_encoders import image_encoding_s, text_encoding_s
from tests.bench.real_loras import lora_switch_s
from tests.bench.real_steps import Steps
from tests.bench.real_vae import VaePasses

BUDGET_S = 540.0
"""What the limits below are meant for; with another budget they are in proportion."""
CACHED_STEPS = 19
NUM_STEPS = 40
"""The attention cache (12, 4, 37) reuses 19 of 40 steps."""
FEW_LAYERS = 4
TWO_BRANCHES_BYTES = 110e9
"""With the cache of both branches, 62 GB, a step takes 95."""


def run_parts(path: Path, budget_s: float, *, is_miniature: bool) -> list[str]:
    """Return the names of the parts that failed."""
    parts = Parts(path, budget_s, patience=budget_s / BUDGET_S)
    size = MINIATURE if is_miniature else REAL
    device = open_device("auto", 0, 1)
    with torch.inference_mode(), device.attention_order():
        form = parts.run("kernels", 60, device.choose_kernels)
        _Benchmark(parts, size, replace(device, kernels=form or "plain")).measure()
    summarise(parts.found, size)
    return parts.failed


class _Benchmark:
    def __init__(self, parts: Parts, size: Size, device: Device) -> None:
        self._parts, self._size, self._device = parts, size, device
        self._few = replace(size, num_layers=FEW_LAYERS)

    def measure(self) -> None:
        """Run all parts; what one has on the device is free before the next begins."""
        parts, size, device = self._parts, self._size, self._device
        side = 256 if size.is_miniature else 8192
        parts.run("machine", 10, partial(machine_of, device))
        parts.run("matmul_tflops", 20, partial(matmul_tflops, device, side))
        for group in (
            self._steps,
            self._rates,
            self._variants,
            self._encoders,
            self._vae,
            self._cache,
        ):
            group()
            gc.collect()  # each block refers to its forward pass, and back
            device.free_memory()

    def _steps(self) -> None:
        """Two steps of all layers, after one that warms up."""
        parts = self._parts
        steps = parts.make("transformer", 60, partial(Steps, self._size, self._device))
        predictor = steps and parts.make("warm_up", 90, steps.start)
        if steps and predictor:
            for name in ("first_step", "step", "next_step"):
                parts.run(name, 45, partial(steps.step, predictor))

    def _rates(self) -> None:
        self._parts.run_all("product", 10, product_rates(self._device, self._size))
        self._parts.run_all("attention", 10, attention_rates(self._device, self._size))

    def _variants(self) -> None:
        """Four layers: a layer's time in each variant, and what the kernels take alone."""
        parts, few, device = self._parts, self._few, self._device
        steps = parts.make("few/transformer", 20, partial(Steps, few, device))
        if steps is None:
            return
        parts.run("few/served", 30, steps.variant)
        parts.run("split", 30, steps.split)
        parts.run("few/cached", 30, steps.cached)
        parts.run("few/compiled", 60, partial(steps.variant, "compiled"))
        parts.run("few/plain", 30, partial(steps.variant, "plain"))
        parts.run("few/stock", 30, steps.stock)
        parts.run("few/one_branch", 20, steps.one_branch)
        parts.run("difference", 10, steps.differences)
        arguments = parts.make("few/kernel_arguments", 20, steps.kernel_arguments)
        parts.run_all("kernel", 20, kernel_rates(device, arguments or {}))
        del steps, arguments
        for form in ("fp8", "int8"):
            parts.run(f"few/{form}", 40, partial(self._quantized, form))
        parts.run("few/loras", 40, partial(lora_switch_s, few, device))

    def _quantized(self, form: Any) -> dict[str, float]:
        return Steps(self._few, self._device, form).variant()

    def _encoders(self) -> None:
        self._parts.run("text_encoding_s", 30, partial(text_encoding_s, self._size, self._device))
        self._parts.run("image_encoding_s", 20, partial(image_encoding_s, self._size, self._device))

    def _vae(self) -> None:
        vae = self._parts.make("vae", 10, partial(VaePasses, self._size, self._device))
        if vae is not None:
            self._parts.run_all("vae/forms", 30, vae.works())
            self._parts.run("vae/difference", 10, vae.differences)

    def _cache(self) -> None:
        """All layers with the attention cache, of one branch where both do not fit."""
        steps = self._parts.make("cache/transformer", 30, partial(Steps, self._size, self._device))
        num_branches = 2 if self._device.capacity_bytes() >= TWO_BRANCHES_BYTES else 1
        if steps is not None:
            self._parts.run("cached", 60, partial(steps.cached, num_branches))


def summarise(found: dict[str, Any], size: Size) -> None:
    """Print what follows from the figures."""

    def of(name: str, key: str = "step_s") -> float | None:
        figure = found.get(name)
        return figure.get(key) if isinstance(figure, dict) else None

    ceiling, step_s = found["matmul_tflops"], of("step")
    if step_s and isinstance(ceiling, float) and not size.is_miniature:
        flops = 2 * forward_flops(Clip()).total
        tflops = flops / step_s / 1e12
        print(f"{flops / 1e15:.2f} PFLOP a step, {tflops:.0f} TFLOP/s")
        print(f"{tflops / ceiling:.0%} of {ceiling:.0f} TFLOP/s, plain matrix products")
    num_layers = size.config("transformer")["num_layers"]
    for name in ("served", "compiled", "plain", "stock", "fp8", "int8", "cached"):
        if few_s := of(f"few/{name}"):
            print(f"{name:9} {few_s * num_layers / FEW_LAYERS:8.3f} s a step, by a few layers")
    if step_s and (reused_s := of("cached")) and of("cached", "branches") == 2:
        mean_s = (CACHED_STEPS * reused_s + (NUM_STEPS - CACHED_STEPS) * step_s) / NUM_STEPS
        print(f"attention cache (12, 4, 37): {mean_s:.3f} s a step on average")
