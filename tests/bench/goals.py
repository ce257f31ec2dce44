"""The goals on one H200, with the estimates and what each takes: `python -m tests.bench.goals`.

A goal is met if all of this holds: the kernels in Triton reach the share of the bandwidth that a
plain kernel does, a lossless attention kernel has the rate in the last column, and the VAE in
bfloat16 is as fast as LightX2V's. Nothing here is measured.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import msgspec

from tests.bench.anchors import H200, H200_SHEET, HD, PLAIN_SHARE
from tests.bench.lossy_rates import SAGE_H200, in_8_bit
from tests.bench.machines import Layout, Machine, step_s, video_s
from tests.bench.model import NUM_REUSED, served
from tests.bench.published import distilled

SERVED = served(H200)
"""With kernels as slow as those of torch's compiler, and the official code's VAE."""
TUNED = replace(
    SERVED,
    element_gb_s=PLAIN_SHARE * H200_SHEET.memory_gb_s,
    vae_tflops=SAGE_H200.vae_tflops,
)
_ALONE = Layout()


def main() -> None:
    print(goals_table())


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that something may take, with the estimates."""

    name: str
    goal_s: float
    served_s: float
    tuned_s: float
    attention_tflops: float
    """The rate at which the goal is met, on the tuned machine."""


def goals() -> list[Goal]:
    return [
        _goal("a step, exact", 19.5, lambda machine: step_s(machine, HD, _ALONE)),
        _goal("a step, fp8", 17.5, lambda machine: step_s(in_8_bit(machine), HD, _ALONE)),
        _goal("mean step, attention cache", 12.5, _mean_step_s),
        _goal(
            "video, 4 distilled steps",
            60.0,
            lambda machine: video_s(machine, distilled(HD), _ALONE),
        ),
    ]


def goals_table() -> str:
    """Return the goals as in `docs/benchmarks.md`."""
    lines = [
        "| seconds | goal | as compiled | kernels and VAE tuned | attention it takes |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.name} | {row.goal_s:g} | {row.served_s:.1f} | {row.tuned_s:.1f} "
        f"| {row.attention_tflops:.0f} TFLOP/s |"
        for row in goals()
    ]
    return "\n".join(lines)


def _goal(name: str, goal_s: float, seconds: Callable[[Machine], float]) -> Goal:
    return Goal(
        name=name,
        goal_s=goal_s,
        served_s=seconds(SERVED),
        tuned_s=seconds(TUNED),
        attention_tflops=_needed_tflops(goal_s, seconds),
    )


def _needed_tflops(goal_s: float, seconds: Callable[[Machine], float]) -> float:
    """Return the attention rate that meets a goal; the time of attention falls with its inverse."""
    others_s = seconds(replace(TUNED, attention_tflops=math.inf))
    attention_s = seconds(TUNED) - others_s
    return TUNED.attention_tflops * attention_s / (goal_s - others_s)


def _mean_step_s(machine: Machine) -> float:
    steps_only = replace(machine, vae_tflops=math.inf)
    return video_s(steps_only, HD, _ALONE, num_reused=NUM_REUSED) / HD.num_steps


if __name__ == "__main__":
    main()
