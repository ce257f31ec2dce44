"""Published times, and what the model says of them.

Every time that its source describes well enough to be computed: model, size, steps, devices and
kernels. Left out are those that name no number of steps (vLLM-Omni) or no attention kernel
(FastVideo on an H100), step caches that decide by the pictures (EasyCache, MagCache on Wan2.2),
and devices with a single figure (B200, TPU v6e).
"""

from dataclasses import replace
from typing import Literal

import msgspec

from tests.bench import anchors, lossy_rates
from tests.bench.anchors import HD, SD, SD_TEXT
from tests.bench.cost import Clip
from tests.bench.lossy_rates import in_8_bit
from tests.bench.machines import Layout, Machine, step_s, video_s

Kind = Literal["lossless", "lossy", "simulated"]
ONE = Layout()
CFG_2 = Layout(cfg_size=2, ulysses_size=4)
SPLIT_8 = Layout(ulysses_size=8, is_vae_split=True)

TEACACHE_HD = 40 * (476 - 50) / (903 - 50)
"""Steps that TeaCache computes of 40 at 0.2 and 720p: from its authors' times, of which about 50 s
are outside the steps.
"""
TEACACHE_SD = 40 * (212 - 22) / (385 - 22)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A published figure and the model's."""

    source: str
    setting: str
    kind: Kind
    published_s: float
    predicted_s: float
    is_anchor: bool = False
    """Whether the rates were derived from it, so that the error shows nothing."""

    @property
    def error(self) -> float:
        """Relative error; positive if the prediction is too high."""
        return self.predicted_s / self.published_s - 1


def checks() -> list[Check]:
    return [*_official(), *_hopper_peers(), *_lightx2v(), *_rtx_4090(), *_ascend(), *_others()]


def _row(
    source: str, setting: str, published: float, predicted: float, kind: Kind = "lossless"
) -> Check:
    return Check(
        source=source, setting=setting, kind=kind, published_s=published, predicted_s=predicted
    )


def _anchor(
    source: str, setting: str, published: float, predicted: float, kind: Kind = "lossless"
) -> Check:
    row = _row(source, setting, published, predicted, kind)
    return msgspec.structs.replace(row, is_anchor=True)


def _official() -> list[Check]:
    """The official code; the times of one and of eight devices are anchors."""
    rows = []
    for name, machine, times in (
        ("H100", anchors.OFFICIAL_H100, (1491.6, 753.9, 403.9, 238.8)),
        ("A100", anchors.OFFICIAL_A100, (2715.5, 1371.7, 716.1, 389.7)),
        ("H20", anchors.OFFICIAL_H20, (5494.8, 2756.6, 1417.0, 778.2)),
    ):
        for num_ranks, published in zip((1, 2, 4, 8), times, strict=True):
            make = _anchor if num_ranks in (1, 8) else _row
            predicted = video_s(machine, HD, Layout(ulysses_size=num_ranks))
            rows.append(
                make(f"official, {name}", f"720p, Ulysses {num_ranks}", published, predicted)
            )
    h200 = anchors.OFFICIAL_H200
    return [
        *rows,
        _anchor("official, H200", "720p", anchors.H200_ONE_S, video_s(h200, HD, ONE)),
        _row("official, H200", "480p", 366, video_s(h200, SD, ONE)),
        _row("EasyCache, H20", "720p, without cache", 5302, video_s(anchors.OFFICIAL_H20, HD, ONE)),
    ]  # fmt: skip


def _hopper_peers() -> list[Check]:
    flash_2, flash_3 = anchors.OFFICIAL_H100, anchors.FLASH_3_H100
    ulysses_8 = Layout(ulysses_size=8)
    return [
        _row("Morphic, 8 H100", "A14B, 720p, FA2", 250.7, video_s(flash_2, HD, ulysses_8)),
        _row("Morphic, 8 H100", "A14B, 720p, FA3", 195.1, video_s(flash_3, HD, ulysses_8)),
        _anchor("SGLang, H100", "480p, a step", 6.13, step_s(anchors.H100, SD, ONE)),
        _row("SGLang, 8 H100", "480p, a step", 1.19, step_s(anchors.H100, SD, CFG_2)),
        _row("diffusers, H100", "480p, a step", 9.77, step_s(flash_2, SD, ONE)),
        _row("xDiT, H100", "480p, a step", 8.93, step_s(flash_2, SD, ONE)),
        _row("xDiT, 8 H100", "480p, a step", 2.70, step_s(flash_2, SD, CFG_2)),
    ]


def _lightx2v() -> list[Check]:
    """LightX2V on Hopper: attention by SageAttention2 in 8 bit in every row."""
    h200, h100 = lossy_rates.SAGE_H200, lossy_rates.SAGE_H100
    fp8, plain = in_8_bit(h200), anchors.plain(h200, anchors.H200_SHEET)
    alone = replace(SD, num_branches=1)
    ulysses_8 = Layout(ulysses_size=8)
    vae_as_official = replace(plain, vae_tflops=anchors.OFFICIAL_H200.vae_tflops)
    one = [
        _anchor("LightX2V, H200", "720p, 18.8 s a step with the VAE", 751, video_s(h200, HD, ONE),
                "lossy"),
        _row("LightX2V, H200", "720p, float32 parts", 807, video_s(plain, HD, ONE), "lossy"),
        _row("LightX2V, H200", "480p", 216, video_s(h200, SD, ONE), "lossy"),
        _row("LightX2V, H200", "480p, float32 parts", 250, video_s(plain, SD, ONE), "lossy"),
        _row("FastVideo, H200", "720p", 914, video_s(vae_as_official, HD, ONE), "lossy"),
        _row("FastVideo, H200", "480p", 292, video_s(vae_as_official, SD, ONE), "lossy"),
        _anchor("LightX2V, H200", "720p, FP8", 671, video_s(fp8, HD, ONE), "lossy"),
        _row("LightX2V, H200", "480p, FP8", 191, video_s(fp8, SD, ONE), "lossy"),
        _row("LightX2V, H200", "720p, FP8, TeaCache 0.2", 344,
             video_s(fp8, HD, ONE, num_skipped=40 - TEACACHE_HD), "lossy"),
        _row("LightX2V, H200", "480p, FP8, TeaCache 0.2", 107,
             video_s(fp8, SD, ONE, num_skipped=40 - TEACACHE_SD), "lossy"),
        _row("LightX2V, H200", "720p, FP8, 4 distilled steps", 44,
             video_s(fp8, distilled(HD), ONE), "lossy"),
        _row("LightX2V, H200", "480p, FP8, 4 distilled steps", 14,
             video_s(fp8, distilled(SD), ONE), "lossy"),
    ]  # fmt: skip
    return [
        *one,
        _row("LightX2V, H100", "480p, a step", 5.18, step_s(h100, SD, ONE), "lossy"),
        _row("LightX2V, 8 H100", "480p, a step", 0.75, step_s(h100, SD, CFG_2), "lossy"),
        _row("LightX2V, 8 H100", "480p, no guidance", 0.39,
             step_s(h100, alone, ulysses_8), "lossy"),
        _row("LightX2V, 8 H100", "480p, no guidance, FP8", 0.35,
             step_s(in_8_bit(h100), alone, ulysses_8), "lossy"),
    ]  # fmt: skip


def distilled(clip: Clip) -> Clip:
    """Return the clip with four steps and one guidance branch."""
    return replace(clip, num_steps=4, num_branches=1)


def _rtx_4090() -> list[Check]:
    """LightX2V with FP8 and SageAttention2, blocks streamed from the host; and eight 4090D."""
    d = lossy_rates.SAGE_4090D
    compiled = in_8_bit(lossy_rates.SAGE_4090)
    plain = anchors.plain(compiled, anchors.RTX_4090_SHEET)
    rows = [
        _anchor("diffusers, 4090D", "480p, a step", 30.5, step_s(anchors.DIFFUSERS_4090D, SD, ONE)),
        _anchor("LightX2V, 4090D", "480p, a step", 20.26, step_s(d, SD, ONE), "lossy"),
        _anchor("LightX2V, 8 4090D", "480p, a step", 4.75, step_s(d, SD, CFG_2), "lossy"),
    ]
    alone, ulysses_8 = replace(SD, num_branches=1), Layout(ulysses_size=8)
    rows += [
        _row("LightX2V, 8 4090D", "480p, no guidance", 3.13, step_s(d, alone, ulysses_8), "lossy"),
        _row("LightX2V, 8 4090D", "480p, no guidance, FP8", 2.35,
             step_s(in_8_bit(d), alone, ulysses_8), "lossy"),
    ]  # fmt: skip
    for setting, machine, times in (
        ("FP8, float32 parts", plain, (2473, 183, 738, 68)),
        ("FP8", compiled, (2169, 171, 630, 63)),
    ):
        clips = (("720p", HD), ("480p", SD))
        for (size, clip), published in zip(clips, (times[:2], times[2:]), strict=True):
            source = "LightX2V, 4090"
            forty, four = video_s(machine, clip, ONE), video_s(machine, distilled(clip), ONE)
            rows += [
                _row(source, f"{size}, {setting}", published[0], forty, "lossy"),
                _row(source, f"{size}, {setting}, 4 distilled steps", published[1], four, "lossy"),
            ]
    return rows


def _ascend() -> list[Check]:
    """Wan2.1 T2V at 480p with MindIE's operators."""
    default, laser = anchors.MINDIE, anchors.LASER
    ten, four = replace(SD_TEXT, num_steps=10), Layout(ulysses_size=4, is_vae_split=True)
    twenty = replace(SD_TEXT, num_steps=20)
    fork, alone = "Wan2.1 fork, 4 910B", "MindIE-SD, 910B"
    return [
        _anchor(fork, "20 steps", 124.1, video_s(default, twenty, four)),
        _row(fork, "10 steps", 62.6, video_s(default, ten, four)),
        _anchor(fork, "10 steps, laser attention", 50.0, video_s(laser, ten, four)),
        _row(fork, "10 steps, laser, W8A8", 42.4, video_s(in_8_bit(laser), ten, four), "lossy"),
        _row(alone, "50 steps, if default attention", 860.2, video_s(default, SD_TEXT, ONE)),
        _row(alone, "50 steps, if laser attention", 860.2, video_s(laser, SD_TEXT, ONE)),
        *(
            _row(alone, f"attention cache {ratio}, over none", published / 860.2,
                 _cached_ratio(laser, ratio), "lossy")
            for ratio, published in ((1.6, 631.7), (2.0, 541.8), (2.4, 516.9))
        ),
        *_ascend_layouts(),
        _row("msmodeling, 8 910B", "A14B, 720p, W8A8, a step, if laser", 6.87,
             step_s(in_8_bit(laser), replace(HD, has_image=False), SPLIT_8), "simulated"),
    ]  # fmt: skip


def _cached_ratio(machine: Machine, ratio: float) -> float:
    """Return the share of the time that is left if one of `ratio` attentions is computed."""
    num_reused = SD_TEXT.num_steps * (1 - 1 / ratio)
    cached_s = video_s(machine, SD_TEXT, ONE, num_reused=num_reused)
    return cached_s / video_s(machine, SD_TEXT, ONE)


def _ascend_layouts() -> list[Check]:
    """Lossy runs with an unknown cache, of which only the ratio of two layouts can be checked."""
    rows = []
    for ranks, published in ((2, 327.6 / 332.6), (4, 151.1 / 147.9), (8, 78.1 / 76.4)):
        cfg_2 = Layout(cfg_size=2, ulysses_size=ranks // 2)
        predicted = step_s(anchors.LASER, SD_TEXT, Layout(ulysses_size=ranks))
        predicted /= step_s(anchors.LASER, SD_TEXT, cfg_2)
        setting = f"Ulysses {ranks} over CFG 2 x Ulysses {ranks // 2}"
        rows.append(_row(f"MindIE-SD, {ranks} 910B", setting, published, predicted, "lossy"))
    return rows


def _others() -> list[Check]:
    """Ratios on devices that are not named or have no anchor of their own."""
    text, gb200 = replace(HD, has_image=False), anchors.GB200
    return [
        _anchor("TensorRT-LLM, GB200", "A14B, 720p", anchors.GB200_ONE_S,
                video_s(gb200, text, ONE)),
        _row("TensorRT-LLM, 2 GB200", "A14B, 720p, CFG 2", 183.0,
             video_s(gb200, text, Layout(cfg_size=2))),
    ]  # fmt: skip
