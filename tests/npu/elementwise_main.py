"""Compares the element-wise kernels of an NPU with the plain form; for forks of the host."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ranks.device import Device
from ranks.kernel_trial import can_run
from ranks.model.kernels import Kernels
from tests.ranks.model.test_numerics import error, prediction

EPS = 1e-6
CHANNELS, HEADS, TOKENS = 72, 4, 6

Pair = tuple[str, Tensor, Tensor]


def choose() -> None:
    """Write the form that an NPU takes, and the one without one of its operators."""
    device = Device(kind="npu", index=0)
    chosen = device.choose_kernels()
    operators: Any = torch.ops.npu
    operator = operators.npu_rotary_mul
    operators.npu_rotary_mul = None  # as in a release that lacks it
    without = device.choose_kernels()
    operators.npu_rotary_mul = operator
    json.dump([chosen, without, can_run("vendor", device.torch_device)], sys.stdout)


def predict() -> None:
    """Write the error of a guided prediction in bfloat16."""
    with torch.inference_mode():
        json.dump(error(prediction(torch.bfloat16, "vendor", "npu:0")), sys.stdout)


def compare() -> None:
    """Write the largest error of each result, by its name."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        for rows in (None, torch.arange(TOKENS) % 2):
            for name, ours, plain in _results(dtype, rows):
                assert ours.dtype == plain.dtype, name
                wide = plain.float()
                error = ((ours.cpu().float() - wide).abs() / (1 + wide.abs())).max()
                case = f"{name}, {dtype}, {'one timestep' if rows is None else 'two timesteps'}"
                found[case] = float(error)
    json.dump(found, sys.stdout)


def _results(dtype: torch.dtype, rows: Tensor | None) -> Iterator[Pair]:
    """Yield a name, what the NPU's kernels make, and what the plain ones make."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden = draw(1, TOKENS, CHANNELS)
    update, query, key, value = (draw(1, TOKENS, CHANNELS).to(dtype) for _ in range(4))
    shift, scale, gate, *_ = draw(1 if rows is None else 2, 6, CHANNELS).chunk(6, dim=1)
    weight, bias = draw(CHANNELS), draw(CHANNELS)
    norms = (draw(CHANNELS).to(dtype), draw(CHANNELS).to(dtype))
    angles = 3 * draw(TOKENS, 1, CHANNELS // HEADS // 2)
    rope = (angles.cos(), angles.sin())
    cases: dict[str, tuple[Any, ...]] = {
        "modulate": (hidden, shift, scale, EPS, dtype, rows),
        "add": (hidden, update, gate, rows),
        "add_and_norm": (hidden, update, gate, weight, bias, EPS, rows),
        "add_and_modulate": (hidden, update, None, shift, scale, EPS, rows),
        "gated add_and_modulate": (hidden, update, gate, shift, scale, EPS, rows),
        "rms_norm": (query, norms[0], EPS),
        "rotate": ((query, key, value), norms, rope, EPS, HEADS, 1),
        "rotate for two": ((query, key, value), norms, rope, EPS, HEADS, 2),
    }
    for case, arguments in cases.items():
        name = case.removeprefix("gated ").removesuffix(" for two")
        plain = getattr(Kernels("plain"), name)(*arguments)
        moved: Any = _on_npu(arguments)
        ours = getattr(Kernels("vendor"), name)(*moved)
        for index, (one, other) in enumerate(zip(_all(ours), _all(plain), strict=True)):
            yield f"{case} {index}", one, other


def _on_npu(value: object) -> object:
    if isinstance(value, Tensor):
        return value.to("npu:0")
    return tuple(map(_on_npu, value)) if isinstance(value, tuple) else value


def _all(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result
