"""The estimated time of a video on real devices: `python -m tests.bench.model [--json FILE]`.

Operations and bytes are counted from the architecture; rates come from published times
(`tests.bench.anchors`, `tests.bench.lossy_rates`). Published times that gave no rate show the error
(`tests.bench.published`). Nothing is measured, but `--measured FILE`, written by
`tests.bench.real_size`, adds the device on which that ran. Wan2.2-A14B takes the same step: one of
its two experts at a time, without 257 of 76,369 keys.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import msgspec

from ranks.sampling.attention_cache import CacheSchedule
from tests.bench.anchors import ASCEND, H100, H200, HD, RTX_4090
from tests.bench.budget import read_figures
from tests.bench.cost import COMPILED_BYTES, Clip, step_flops
from tests.bench.lossy_rates import FP8_GAIN, INT8_GAIN, SAGE_H200, in_8_bit
from tests.bench.machines import GIGA, HOST_S, TERA, Layout, Machine, step_s, video_s
from tests.bench.published import Check, checks, distilled
from tests.bench.report import write_report

KERNEL_KINDS = ("attention", "linear", "rest")
CACHE = CacheSchedule(start=12, interval=4, end=37, num_inference_steps=HD.num_steps)
NUM_REUSED = sum(CACHE.reuses(step) for step in range(HD.num_steps))
NUM_SKIPPED = 20
"""Of 40 steps, as published runs of TeaCache at 0.2."""

ONE = (Layout(),)
EIGHT = (
    Layout(ulysses_size=8, is_vae_split=True),
    Layout(cfg_size=2, ulysses_size=4, is_vae_split=True),
)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that work on one video."""

    name: str
    machine: Machine
    layouts: tuple[Layout, ...]
    holds_attention_cache: bool = True
    """One device needs 123 GiB for it."""


def served(machine: Machine) -> Machine:
    """Return a machine with this server's kernels, which read and write tokens in float32."""
    return replace(machine, element_bytes=COMPILED_BYTES)


GROUPS: tuple[Group, ...] = (
    Group(name="8 Ascend 910B", machine=ASCEND, layouts=EIGHT),
    Group(name="8 H100", machine=served(H100), layouts=EIGHT),
    Group(name="8 H200", machine=served(H200), layouts=EIGHT),
    Group(name="1 H200", machine=served(H200), layouts=ONE),
    Group(name="1 H100", machine=served(H100), layouts=ONE, holds_attention_cache=False),
    Group(name="1 RTX 4090", machine=served(RTX_4090), layouts=ONE, holds_attention_cache=False),
)


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A way to make the video."""

    name: str
    clip: Clip = HD
    is_8_bit: bool = False
    num_reused: int = 0
    num_skipped: int = 0


PLAIN = Option(name="guidance")
OPTIONS = (
    PLAIN,
    Option(name="8-bit linear layers", is_8_bit=True),
    Option(name="attention cache", num_reused=NUM_REUSED),
    Option(name="step cache", num_skipped=NUM_SKIPPED),
    Option(name="4 distilled steps", clip=distilled(HD)),
    Option(name="4 distilled steps, 8 bit", clip=distilled(HD), is_8_bit=True),
)


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The estimate for a group in its fastest layout: 1280*720, 81 frames."""

    group: str
    option: str
    layout: Layout
    step_s: float
    """A step that nothing shortens."""
    video_s: float


def predict(group: Group, option: Option) -> Prediction:
    machine = in_8_bit(group.machine) if option.is_8_bit else group.machine
    rows = (
        Prediction(
            group=group.name,
            option=option.name,
            layout=layout,
            step_s=step_s(machine, option.clip, layout),
            video_s=video_s(
                machine,
                option.clip,
                layout,
                num_reused=option.num_reused,
                num_skipped=option.num_skipped,
            ),
        )
        for layout in group.layouts
    )
    return min(rows, key=lambda row: row.video_s)


def predictions(groups: tuple[Group, ...] = GROUPS) -> list[Prediction]:
    """Return every option of every group that has the memory for it."""
    return [
        predict(group, option)
        for group in groups
        for option in OPTIONS
        if group.holds_attention_cache or not option.num_reused
    ]


def measured(path: Path) -> Machine:
    """Return the device on which `tests.bench.real_size` ran, with the product's own rates."""
    found = read_figures(path)
    vae_s = sum(found[f"vae/float32, {direction}"]["clip_s"] for direction in ("encode", "decode"))
    split = found["split"]  # of fewer layers
    scale = (found["step"]["step_s"] - HOST_S) / sum(split[f"{kind}_s"] for kind in KERNEL_KINDS)
    attention_s, linear_s, element_s = (scale * split[f"{kind}_s"] for kind in KERNEL_KINDS)
    flops = step_flops(HD)
    return Machine(
        name=f"{found['machine']['device']}, rates measured",
        attention_tflops=flops.attention / attention_s / TERA,
        linear_tflops=flops.linear / linear_s / TERA,
        element_bytes=COMPILED_BYTES,
        element_gb_s=HD.num_branches * HD.num_token_blocks * COMPILED_BYTES / element_s / GIGA,
        vae_tflops=HD.vae_flops / vae_s / TERA,
        send_gb_s=H100.send_gb_s,
    )


def table(rows: list[Prediction]) -> str:
    """Return the estimates as in `docs/benchmarks.md`: seconds, a row for each group."""
    head = ["", "layout", "a step", "video", *(option.name for option in OPTIONS[1:])]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for group in dict.fromkeys(row.group for row in rows):
        found = {row.option: row for row in rows if row.group == group}
        plain, layout = found[PLAIN.name], found[PLAIN.name].layout
        split = f"{layout.cfg_size} x {layout.ulysses_size}" if layout.num_ranks > 1 else ""
        cells = [group, split, f"{plain.step_s:.2f}"]
        for option in OPTIONS:
            row = found.get(option.name)
            cells.append(f"{row.video_s:.0f}" if row else "no memory")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All estimates, rates and checks."""

    machines: list[Machine]
    checks: list[Check]
    predictions: list[Prediction]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the tables here")
    parser.add_argument("--measured", type=Path, help="findings of tests.bench.real_size")
    arguments = parser.parse_args()
    groups = GROUPS
    if arguments.measured is not None:
        machine = measured(arguments.measured)
        groups += (
            Group(name=f"1 {machine.name}", machine=machine, layouts=ONE),
            Group(name=f"8 {machine.name}", machine=machine, layouts=EIGHT),
        )
    machines = list({group.machine.name: group.machine for group in groups}.values())
    report = Report(machines=machines, checks=checks(), predictions=predictions(groups))
    print_rates([*report.machines, SAGE_H200])
    print_checks(report.checks)
    print("\nestimates: seconds for 1280*720, 81 frames; 40 steps unless stated otherwise")
    print(table(report.predictions))
    write_report(arguments.json, report)


def print_rates(machines: list[Machine]) -> None:
    flops = step_flops(HD)
    total, attention = (part / 1e15 for part in (flops.attention + flops.linear, flops.attention))
    print(f"counted: a step at 720p takes {total:.2f} PFLOP, {attention:.2f} of them attention")
    print(f"\n{'rates':22} {'attention':>10} {'linear':>8} {'VAE':>6} TFLOP/s", end="")
    print(f" {'element-wise':>14} {'sends':>6} GB/s")
    for machine in machines:
        print(
            f"{machine.name:22} {machine.attention_tflops:10.0f} {machine.linear_tflops:8.0f} "
            f"{machine.vae_tflops:6.0f} {machine.element_gb_s:22.0f} {machine.send_gb_s:6.0f}"
        )
    print(f"8-bit linear layers: {FP8_GAIN:.2f} times as fast in FP8, {INT8_GAIN:.0f} in INT8")


def print_checks(rows: list[Check]) -> None:
    print(f"\n{'published':22} {'':46} {'':9} {'theirs':>8} {'ours':>8} {'error':>7}")
    for row in rows:
        error = "anchor" if row.is_anchor else f"{row.error:+.0%}"
        print(
            f"{row.source:22} {row.setting:46} {row.kind:9} {row.published_s:8.2f} "
            f"{row.predicted_s:8.2f} {error:>7}"
        )


if __name__ == "__main__":
    main()
