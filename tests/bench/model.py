"""The predicted time of a video on eight devices: `python -m tests.bench.model [--json FILE]`.

Operations and bytes are counted from the architecture; rates are calibrated with published
measurements. Measurements that the calibration did not use show the model's error. With
`--measured FILE`, written by `tests.bench.real_size`, it adds eight of the measured device.
"""

import argparse
from pathlib import Path

import msgspec

from ranks.sampling.attention_cache import CacheSchedule
from tests.bench.cost import Clip, forward_flops, forward_traffic
from tests.bench.machines import (
    GIGA,
    TERA,
    Layout,
    Machine,
    calibrate_total,
    step_s,
    video_s,
)
from tests.bench.report import write_report

HD = Clip()
SD = Clip(width=832, height=480)
SD_TEXT = Clip(width=832, height=480, num_steps=50, has_image=False)
SD_TEXT_20 = Clip(width=832, height=480, num_steps=20, has_image=False)
KERNEL_KINDS = ("attention", "linear", "rest")
CACHE = CacheSchedule(start=12, interval=4, end=37, num_inference_steps=HD.num_steps)

LAYOUTS = (
    Layout(ulysses_size=8, is_vae_split=True),
    Layout(cfg_size=2, ulysses_size=4, is_vae_split=True),
)


def _nvlink_gb_s() -> float:
    """Return a rank's send rate on eight H100, from LightX2V's steps on one and eight at 480p.

    It is the time beyond an eighth of one device's, for the bytes of CFG 2 with Ulysses 4.
    """
    beyond_s = 0.75 - 5.18 / 8
    return forward_traffic(SD, 4).num_bytes / beyond_s / GIGA


NVLINK = _nvlink_gb_s()
OFFICIAL = {
    name: calibrate_total(name, HD, one_s=one_s, eight_s=eight_s, send_gb_s=NVLINK)
    for name, one_s, eight_s in (
        ("H100, official code", 1491.6, 238.8),
        ("A100, official code", 2715.5, 389.7),
        ("H20, official code", 5494.8, 778.2),
    )
}


def _lightx2v(name: str, step_of_sd_s: float) -> Machine:
    """Return a machine with LightX2V in bfloat16, from its step time at 480p."""
    tflops = SD.num_branches * forward_flops(SD).total / step_of_sd_s / TERA
    vae = OFFICIAL["H100, official code"].vae_tflops
    return Machine(
        name=name,
        attention_tflops=tflops,
        linear_tflops=tflops,
        vae_tflops=vae,
        send_gb_s=NVLINK,
    )


def _h200() -> Machine:
    """Return an H200 with LightX2V in bfloat16, from its video of 751 s at 720p."""
    vae_s = HD.vae_flops / (OFFICIAL["H100, official code"].vae_tflops * TERA)
    tflops = HD.num_steps * HD.num_branches * forward_flops(HD).total / (751 - vae_s) / TERA
    return Machine(
        name="H200",
        attention_tflops=tflops,
        linear_tflops=tflops,
        vae_tflops=OFFICIAL["H100, official code"].vae_tflops,
        send_gb_s=NVLINK,
    )


def _ascend() -> Machine:
    """Return an Ascend 910B with CANN's attention operator, from four devices at 480p.

    A step of 6.10 s has 3.28 s of attention and 1.13 s of exchanges; 2.1 s are outside the steps.
    """
    flops, traffic = forward_flops(SD_TEXT_20), forward_traffic(SD_TEXT_20, 4)
    return Machine(
        name="Ascend 910B",
        attention_tflops=2 * flops.attention / 4 / 3.28 / TERA,
        linear_tflops=2 * flops.linear / 4 / (6.10 - 3.28 - 1.13) / TERA,
        vae_tflops=SD_TEXT_20.vae_flops / 4 / (124.1 - 20 * 6.10) / TERA,
        send_gb_s=2 * traffic.num_bytes / 1.13 / GIGA,
    )


H100, H200, ASCEND = _lightx2v("H100", 5.18), _h200(), _ascend()


def measured(path: Path) -> Machine:
    """Return the device on which `tests.bench.real_size` ran, with the product's own rates."""
    found = msgspec.json.decode(path.read_bytes())
    vae = found["vae"]["served, whole clip"]
    flops, split = forward_flops(HD), found["split"]
    attention_share = split["attention_s"] / sum(split[f"{k}_s"] for k in KERNEL_KINDS)
    attention_s = found["fused"]["step_s"] * attention_share
    linear_s = found["fused"]["step_s"] - attention_s
    return Machine(
        name=f"{found['machine']['device']}, measured",
        attention_tflops=HD.num_branches * flops.attention / attention_s / TERA,
        linear_tflops=HD.num_branches * flops.linear / linear_s / TERA,
        vae_tflops=HD.vae_flops / (vae["encode_s"] + vae["decode_s"]) / TERA,
        send_gb_s=NVLINK,
    )


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A published figure that the calibration did not use, and the model's prediction."""

    source: str
    setting: str
    published_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        """Relative error; positive if the prediction is too high."""
        return self.predicted_s / self.published_s - 1


def checks() -> list[Check]:
    """Return every published figure with the same FLOPs and known settings."""
    found = [
        Check(
            source=f"Wan2.1, {name.split(',')[0]}",
            setting=f"720p, Ulysses {num_ranks}",
            published_s=published_s,
            predicted_s=video_s(machine, HD, Layout(ulysses_size=num_ranks)),
        )
        for (name, machine), pair in zip(
            OFFICIAL.items(), ((753.9, 403.9), (1371.7, 716.1), (2756.6, 1417.0)), strict=True
        )
        for num_ranks, published_s in zip((2, 4), pair, strict=True)
    ]
    cfg_2 = Layout(cfg_size=2, ulysses_size=4)
    official = OFFICIAL["H100, official code"]
    rows = (
        ("Morphic, 8 H100", "Wan2.2, 720p, FA2, Ulysses 8", 250.7,
         video_s(official, HD, Layout(ulysses_size=8))),
        ("LightX2V, H200", "480p, one device", 216.0, video_s(H200, SD, Layout())),
        ("LightX2V, H100", "480p, 8 devices, no guidance, a step", 0.39,
         step_s(H100, Clip(width=832, height=480, num_branches=1), Layout(ulysses_size=8))),
        ("MindIE-SD, 910B", "480p T2V, one device, 50 steps", 860.2,
         video_s(ASCEND, SD_TEXT, Layout())),
        ("Wan2.1 fork, 910B", "480p T2V, Ulysses 4, 10 steps", 62.6,
         video_s(ASCEND, Clip(width=832, height=480, num_steps=10, has_image=False),
                 Layout(ulysses_size=4, is_vae_split=True))),
    )  # fmt: skip
    found += [
        Check(source=source, setting=setting, published_s=published, predicted_s=predicted)
        for source, setting, published, predicted in rows
    ]
    # Lossy runs: only their ratio can be checked. Ulysses 8 takes 78.1 / 76.4 of CFG 2, Ulysses 4.
    ratio = step_s(ASCEND, SD_TEXT, Layout(ulysses_size=8)) / step_s(ASCEND, SD_TEXT, cfg_2)
    found.append(
        Check(
            source="MindIE-SD, 910B",
            setting="480p T2V, Ulysses 8 over CFG 2 x Ulysses 4 (ratio)",
            published_s=78.1 / 76.4,
            predicted_s=ratio,
        )
    )
    return found


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The prediction for eight devices in one layout: 1280*720, 81 frames, 40 steps."""

    machine: str
    num_branches: int
    cfg_size: int
    ulysses_size: int
    step_s: float
    video_s: float
    cached_s: float
    """With the attention cache (12, 4, 37)."""
    whole_vae_s: float
    """With the VAE on one rank."""


def predict(machine: Machine, num_branches: int, layout: Layout) -> Prediction:
    clip = Clip(num_branches=num_branches)
    whole = Layout(cfg_size=layout.cfg_size, ulysses_size=layout.ulysses_size)
    return Prediction(
        machine=machine.name,
        num_branches=num_branches,
        cfg_size=layout.cfg_size,
        ulysses_size=layout.ulysses_size,
        step_s=step_s(machine, clip, layout),
        video_s=video_s(machine, clip, layout),
        cached_s=video_s(machine, clip, layout, CACHE),
        whole_vae_s=video_s(machine, clip, whole),
    )


def best(machine: Machine, num_branches: int) -> Prediction:
    """Return the fastest layout of eight devices."""
    rows = (predict(machine, num_branches, layout) for layout in LAYOUTS)
    return min(rows, key=lambda row: row.video_s)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All predictions, rates and checks."""

    checks: list[Check]
    predictions: list[Prediction]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the tables here")
    parser.add_argument("--measured", type=Path, help="findings of tests.bench.real_size")
    arguments = parser.parse_args()
    machines = [ASCEND, H100, H200]
    if arguments.measured is not None:
        machines.append(measured(arguments.measured))
    report = Report(
        checks=checks(),
        predictions=[
            predict(machine, num_branches, layout)
            for machine in machines
            for num_branches in (2, 1)
            for layout in LAYOUTS
        ],
    )
    print_rates()
    print_checks(report.checks)
    print_predictions(report.predictions)
    write_report(arguments.json, report)


def print_rates() -> None:
    flops = forward_flops(HD)
    total, attention = (HD.num_branches * part / 1e15 for part in (flops.total, flops.attention))
    print(f"a step at 720p: {total:.2f} PFLOP, of which attention {attention:.2f}")
    print(f"\n{'machine':22} {'attention':>10} {'linear':>8} {'VAE':>6} TFLOP/s {'sends':>6} GB/s")
    for machine in (*OFFICIAL.values(), H100, H200, ASCEND):
        print(
            f"{machine.name:22} {machine.attention_tflops:10.0f} {machine.linear_tflops:8.0f} "
            f"{machine.vae_tflops:6.0f} {machine.send_gb_s:14.0f}"
        )


def print_checks(rows: list[Check]) -> None:
    print(f"\n{'published':22} {'':52} {'':>8} {'model':>8} {'error':>6}")
    for row in rows:
        print(
            f"{row.source:22} {row.setting:52} {row.published_s:8.2f} {row.predicted_s:8.2f} "
            f"{row.error:+6.0%}"
        )


def print_predictions(rows: list[Prediction]) -> None:
    print("\n1280*720, 81 frames, 40 steps, on eight devices, with the VAE split")
    titles = f"{'step':>8} {'video':>8} {'cache':>8} {'VAE whole':>10}"
    print(f"{'':24}{'guidance':>9} {'layout':>18} {titles}")
    for row in rows:
        layout = f"CFG {row.cfg_size}, Ulysses {row.ulysses_size}"
        print(
            f"{row.machine:24}{'on' if row.num_branches == 2 else 'off':>9} {layout:>18} "
            f"{row.step_s:6.2f} s {row.video_s:6.0f} s {row.cached_s:6.0f} s "
            f"{row.whole_vae_s:8.0f} s"
        )


if __name__ == "__main__":
    main()
