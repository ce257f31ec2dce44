"""The fused kernels: equal to the plain formulas, and what they cost, by count.

It prints a table for an H200 and the 14B model. It fails if a kernel written in Triton differs from
its formula in Triton's interpreter, keeps registers in memory, or by count takes longer than 1.3
times what its bytes take.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ranks.model import triton_kernels
from ranks.model.kernels import KernelForm, Kernels
from tests.rehearsal.engine_rank import say
from tests.rehearsal.launches import Launch, compiling_for, recorded

NUM_TOKENS = 1000
MODELS = ((5120, 40), (3072, 24), (1536, 12))
"""Channels and heads of the models with 14, 5 and 1.3 billion weights."""
CAPABILITIES = (90, 80)
FORMS: tuple[KernelForm, ...] = ("compiled", "triton")
GATED = "gated "
NAMES = (
    *("modulate", "rotate", "add_and_norm", "add_and_modulate"),
    *(f"{GATED}add_and_modulate", "add"),
)
"""A block has the second to the fifth; the first block begins with the first, the last is last."""
EPS = 1e-6
LIMIT = 1.3

BYTES_PER_S = 4.8e12
"""Of an H200, by its data sheet."""
INSTRUCTIONS_PER_S = 0.5 * 9.2e11
"""Half of what 132 multiprocessors with 4 schedulers each can issue to warps at 1.75 GHz."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stretch of operations costs for one token."""

    num_kernels: int
    num_bytes: float
    num_instructions: float
    has_loops: bool
    num_registers: int
    num_spilled_bytes: int
    floor_bytes: float
    """What goes in and comes out."""

    @property
    def times_floor(self) -> float:
        """Return how many times longer it takes than moving `floor_bytes` does."""
        time_s = max(self.num_bytes / BYTES_PER_S, self.num_instructions / INSTRUCTIONS_PER_S)
        return time_s * BYTES_PER_S / self.floor_bytes


def main() -> int:
    """Return how many kernels fail."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.ranks.model.triton_equality"]
    num_failed = subprocess.run(command, env=environment, check=False).returncode
    say("  equal to the formulas, in the interpreter" if not num_failed else "  NOT equal")
    with torch.inference_mode():
        for form in FORMS:
            for name, cost in costs(form, *MODELS[0]):
                say(_line(f"{name}, {form}", cost))
        for capability, (channels, num_heads) in ((c, m) for c in CAPABILITIES for m in MODELS):
            with compiling_for(capability):
                _forget()
                for name, cost in costs("triton", channels, num_heads):
                    if cost.num_spilled_bytes or cost.times_floor > LIMIT:
                        num_failed += 1
                        say(_line(f"FAILED: {name}, {channels} channels, sm_{capability}", cost))
    return num_failed


def costs(form: KernelForm, channels: int, num_heads: int) -> Iterator[tuple[str, Cost]]:
    """Yield the cost of each function of `Kernels` in a form."""
    torch.compiler.reset()
    kernels = Kernels(form)
    for name in NAMES:
        function: Callable[..., Any] = getattr(kernels, name.removeprefix(GATED))
        arguments = _arguments(name, NUM_TOKENS, channels, num_heads)
        with recorded() as launches:
            # The compiler takes the second number of tokens that it sees for any number.
            function(*_arguments(name, NUM_TOKENS - 1, channels, num_heads))
            launches.clear()
            result = function(*arguments)
        yield name, _cost(launches, _num_bytes((arguments, result)))


def _arguments(name: str, num_tokens: int, channels: int, num_heads: int) -> tuple[Any, ...]:
    # Tokens between blocks are in float32.
    hidden = torch.empty(1, num_tokens, channels, device="cuda")
    update, key, value = (
        torch.empty(1, num_tokens, channels, dtype=torch.bfloat16, device="cuda") for _ in range(3)
    )
    shift, scale, gate, *_ = torch.empty(1, 6, channels, device="cuda").chunk(6, dim=1)
    weights = (torch.empty(channels, device="cuda"), torch.empty(channels, device="cuda"))
    head_dim = channels // num_heads
    rope = tuple(torch.empty(num_tokens, 1, head_dim // 2, device="cuda") for _ in range(2))
    norms = tuple(weight.bfloat16() for weight in weights)
    arguments: dict[str, tuple[Any, ...]] = {
        "modulate": (hidden, shift, scale, EPS, torch.bfloat16),
        "rotate": ((update, key, value), norms, rope, EPS, num_heads, 1),
        "add_and_norm": (hidden, update, gate, *weights, EPS),
        "add_and_modulate": (hidden, update, None, shift, scale, EPS),
        "gated add_and_modulate": (hidden, update, gate, shift, scale, EPS),
        "add": (hidden, update, gate),
    }
    return arguments[name]


def _cost(launches: list[Launch], floor_bytes: int) -> Cost:
    codes = [launch.code for launch in launches]
    num_instructions = sum(
        launch.code.num_instructions * launch.num_warps * launch.num_programs for launch in launches
    )
    return Cost(
        num_kernels=len(launches),
        num_bytes=sum(launch.num_bytes for launch in launches) / NUM_TOKENS,
        num_instructions=num_instructions / NUM_TOKENS,
        has_loops=any(code.num_loops for code in codes),
        num_registers=max(code.num_registers for code in codes),
        num_spilled_bytes=max(code.num_spilled_bytes for code in codes),
        floor_bytes=floor_bytes / NUM_TOKENS,
    )


def _num_bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _forget() -> None:
    """Let Triton compile the project's kernels again."""
    for kernel in vars(triton_kernels).values():
        if hasattr(kernel, "device_caches"):
            kernel.device_caches.clear()


def _line(name: str, cost: Cost) -> str:
    at_least = ">" if cost.has_loops else " "
    return (
        f"  {name:26} {cost.num_kernels} kernels {cost.num_bytes / 1e3:6.1f} kB a token"
        f" {at_least}{cost.num_instructions:6.0f} instructions"
        f" {cost.num_registers:4} registers {cost.num_spilled_bytes:3} B spilled"
        f" {at_least}{cost.times_floor:5.2f} times the floor"
    )


if __name__ == "__main__":
    sys.exit(main())
