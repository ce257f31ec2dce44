"""The 14B model on one device: `python -m tests.bench.real_size --json FILE`.

It uses 1280*720, 81 frames, guidance and random weights in bfloat16, made on the device. It
measures the seconds of a step (median of three after a warm-up) with fused kernels, plain kernels
and the attention cache, and of diffusers' stock transformer; how a step's time is spent; the
encoders and the VAE; peak memory; and the rate of a step relative to plain matrix products. It
takes at most nine minutes: parts that fail or exceed the time are left out, and the JSON is
written after each part.

It needs a CUDA device with 130 GB (the attention cache of one device alone takes 62), torch and
transformers, and of this repository the folders broker, ranks and tests. On a machine without a
package index, fetch wheels elsewhere with `pip download --no-deps diffusers msgspec
importlib_metadata requests` for its Python, and install the missing ones with
`pip install --no-index --no-deps *.whl`.
`--miniature` runs the same parts on a model of a thousandth of the size, on any device.
"""

import argparse
import gc
from pathlib import Path

import torch

from ranks.device import Device, open_device
from tests.bench.budget import Parts
from tests.bench.cost import Clip, forward_flops
from tests.bench.device_rates import attention_rates, machine_of, matmul_tflops
from tests.bench.random_models import MINIATURE, REAL, Size
from tests.bench.real_encoders import image_encoding_s, text_encoding_s
from tests.bench.real_steps import Steps
from tests.bench.real_vae import vae_variants

BUDGET_S = 540.0
CACHED_STEPS = 19
NUM_STEPS = 40
"""The attention cache (12, 4, 37) reuses 19 of 40 steps."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("real_size.json"), help="findings")
    parser.add_argument("--miniature", action="store_true", help="try the benchmark itself")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for all parts")
    arguments = parser.parse_args()
    size = MINIATURE if arguments.miniature else REAL
    device = open_device("auto", 0, 1)
    parts = Parts(arguments.json, arguments.budget)
    with torch.inference_mode(), device.attention_order():
        measure(parts, size, device)
    summarise(parts, size)


def measure(parts: Parts, size: Size, device: Device) -> None:
    """Run all parts, the most important first."""
    side = 256 if size.is_miniature else 8192
    parts.run("machine", 10, lambda: machine_of(device))
    parts.run("matmul_tflops", 20, lambda: matmul_tflops(device, side))
    parts.run("attention_tflops", 40, lambda: attention_rates(device, size))
    made: list[Steps] = []
    parts.run("transformer", 60, lambda: made.append(Steps(size, device)))
    if made:
        measure_steps(parts, made.pop())
    gc.collect()  # each block refers to its forward pass, and back
    device.free_memory()
    parts.run("text_encoding_s", 40, lambda: text_encoding_s(size, device))
    parts.run("image_encoding_s", 20, lambda: image_encoding_s(size, device))
    parts.run("vae", 120, lambda: vae_variants(size, device))


def measure_steps(parts: Parts, steps: Steps) -> None:
    """Measure the transformer."""
    parts.run("fused", 150, lambda: steps.ours(is_fused=True))
    parts.run("stock", 130, steps.stock)
    parts.run("split", 60, steps.split)
    parts.run("cached", 90, steps.cached)
    parts.run("plain", 120, lambda: steps.ours(is_fused=False))
    parts.run("difference", 20, steps.differences)


def summarise(parts: Parts, size: Size) -> None:
    found = parts.found

    def step_of(name: str) -> float | None:
        part = found.get(name, {})
        return part.get("step_s") if isinstance(part, dict) else None

    ceiling = found["matmul_tflops"]
    if (step_s := step_of("fused")) and isinstance(ceiling, float) and not size.is_miniature:
        flops = 2 * forward_flops(Clip()).total
        tflops = flops / step_s / 1e12
        print(f"{flops / 1e15:.2f} PFLOP a step, {tflops:.0f} TFLOP/s")
        print(f"{tflops / ceiling:.0%} of {ceiling:.0f} TFLOP/s, plain matrix products")
    for name in ("fused", "plain", "stock"):
        print(f"{name:8} {step_of(name) or float('nan'):8.3f} s a step")
    if (step_s := step_of("fused")) and (reused_s := step_of("cached")):
        mean_s = (CACHED_STEPS * reused_s + (NUM_STEPS - CACHED_STEPS) * step_s) / NUM_STEPS
        print(f"attention cache (12, 4, 37): {mean_s:.3f} s a step on average")


if __name__ == "__main__":
    main()
