"""Rates of devices with lossless kernels, from published lossless times.

Attention, linear layers and element-wise operations have rates of their own. Two sizes of video
separate the first two; for the third, bytes are counted and the shares below are estimates. The
only times of lossy runs here are those that give the VAE of the 4090.
"""

from dataclasses import dataclass, replace

from tests.bench.cost import (
    BFLOAT16_COMPILED_BYTES,
    BFLOAT16_PLAIN_BYTES,
    MINDIE_BYTES,
    NPU_BYTES,
    Clip,
    Flops,
    forward_flops,
    forward_traffic,
    step_flops,
)
from tests.bench.machines import GIGA, HOST_S, TERA, Machine, element_s

HD = Clip()
SD = Clip(width=832, height=480)
SD_TEXT = Clip(width=832, height=480, num_steps=50, has_image=False)

PLAIN_SHARE = 0.85
COMPILED_SHARE = 0.33
"""Share of the memory's bandwidth that element-wise operations reach. Compiled ones are limited by
the instructions that they issue.
"""
LINK_SHARE = 0.65
"""Share of the links' bandwidth that the exchanges reach."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A data sheet: dense bfloat16, memory, and links in one direction."""

    tflops: float
    memory_gb_s: float
    link_gb_s: float

    @property
    def send_gb_s(self) -> float:
        return LINK_SHARE * self.link_gb_s


H100_SHEET = Sheet(tflops=989, memory_gb_s=3350, link_gb_s=450)
H200_SHEET = replace(H100_SHEET, memory_gb_s=4800)
A100_SHEET = Sheet(tflops=312, memory_gb_s=2039, link_gb_s=300)
H20_SHEET = Sheet(tflops=148, memory_gb_s=4000, link_gb_s=450)
# Without links; both send over the host.
RTX_4090_SHEET = Sheet(tflops=165, memory_gb_s=1008, link_gb_s=0)
RTX_4090D_SHEET = replace(RTX_4090_SHEET, tflops=147)
ASCEND_MEMORY_GB_S = 1600


def plain_s(sheet: Sheet, clip: Clip) -> float:
    """Return a step's time for element-wise operations, one kernel each."""
    moved = clip.num_branches * clip.num_token_blocks * BFLOAT16_PLAIN_BYTES
    return moved / (PLAIN_SHARE * sheet.memory_gb_s * GIGA)


def compiled_s(sheet: Sheet, clip: Clip) -> float:
    """Return a step's time for element-wise operations in compiled kernels."""
    moved = clip.num_branches * clip.num_token_blocks * BFLOAT16_COMPILED_BYTES
    return moved / (COMPILED_SHARE * sheet.memory_gb_s * GIGA)


def two_rates(first: Flops, first_s: float, second: Flops, second_s: float) -> tuple[float, float]:
    """Return TFLOP/s of attention and of linear layers, from two runs with the same rates."""
    determinant = first.attention * second.linear - second.attention * first.linear
    attention_s = (first_s * second.linear - second_s * first.linear) / determinant
    linear_s = (first.attention * second_s - second.attention * first_s) / determinant
    return 1 / attention_s / TERA, 1 / linear_s / TERA


def _step_and_vae_s(sheet: Sheet, one_s: float, eight_s: float) -> tuple[float, float]:
    """Return the times of a step and of the VAE, from videos at 720p on one and eight devices.

    The eight split only the sequence; the time that does not shrink is the VAE's.
    """
    num_forwards = HD.num_steps * HD.num_branches
    sending_s = num_forwards * forward_traffic(HD, 8).num_bytes / (sheet.send_gb_s * GIGA)
    # one_s = alone + shared, eight_s = alone + shared / 8 + sending
    shared_s = (one_s - eight_s + sending_s) * 8 / 7
    return shared_s / HD.num_steps, one_s - shared_s - HD.num_steps * HOST_S


def _official(
    name: str, sheet: Sheet, linear_tflops: float, one_s: float, eight_s: float
) -> Machine:
    """Return a device with the official code; attention takes what the rest of a step leaves."""
    products_s, vae_s = _step_and_vae_s(sheet, one_s, eight_s)
    flops = step_flops(HD)
    attention_s = products_s - plain_s(sheet, HD) - flops.linear / (linear_tflops * TERA)
    return Machine(
        name=name,
        attention_tflops=flops.attention / attention_s / TERA,
        linear_tflops=linear_tflops,
        element_bytes=BFLOAT16_PLAIN_BYTES,
        element_gb_s=PLAIN_SHARE * sheet.memory_gb_s,
        vae_tflops=HD.vae_flops / vae_s / TERA,
        send_gb_s=sheet.send_gb_s,
    )


H100_ONE_S, H100_EIGHT_S = 1491.6, 238.8
H200_ONE_S = 974.0
SGLANG_STEP_S = 6.13


def _hopper_rates() -> tuple[float, float]:
    """Return the rates of Hopper's tensor cores with FlashAttention 3.

    From the official code at 720p on one H200, and SGLang's step at 480p on one H100, which is
    assumed to have compiled element-wise kernels.
    """
    _, vae_s = _step_and_vae_s(H100_SHEET, H100_ONE_S, H100_EIGHT_S)
    official_s = (H200_ONE_S - vae_s) / HD.num_steps - HOST_S - plain_s(H200_SHEET, HD)
    sglang_s = SGLANG_STEP_S - HOST_S - compiled_s(H100_SHEET, SD)
    return two_rates(step_flops(HD), official_s, step_flops(SD), sglang_s)


FLASH_3_TFLOPS, HOPPER_LINEAR_TFLOPS = _hopper_rates()
_LINEAR_SHARE = HOPPER_LINEAR_TFLOPS / H100_SHEET.tflops

OFFICIAL_H100 = _official(
    "H100, official, FA2", H100_SHEET, HOPPER_LINEAR_TFLOPS, H100_ONE_S, H100_EIGHT_S
)
OFFICIAL_H200 = replace(
    OFFICIAL_H100,
    name="H200, official, FA3",
    attention_tflops=FLASH_3_TFLOPS,
    element_gb_s=PLAIN_SHARE * H200_SHEET.memory_gb_s,
)
OFFICIAL_A100 = _official(
    "A100, official", A100_SHEET, _LINEAR_SHARE * A100_SHEET.tflops, 2715.5, 389.7
)
OFFICIAL_H20 = _official(
    "H20, official", H20_SHEET, _LINEAR_SHARE * H20_SHEET.tflops, 5494.8, 778.2
)


def compiled(name: str, machine: Machine, sheet: Sheet) -> Machine:
    """Return a machine with compiled element-wise kernels."""
    return replace(
        machine,
        name=name,
        element_bytes=BFLOAT16_COMPILED_BYTES,
        element_gb_s=COMPILED_SHARE * sheet.memory_gb_s,
    )


def plain(machine: Machine, sheet: Sheet) -> Machine:
    """Return a machine with one kernel for each element-wise operation."""
    return replace(
        machine, element_bytes=BFLOAT16_PLAIN_BYTES, element_gb_s=PLAIN_SHARE * sheet.memory_gb_s
    )


FLASH_3_H100 = replace(OFFICIAL_H100, name="H100, FA3", attention_tflops=FLASH_3_TFLOPS)
H100 = compiled("H100", FLASH_3_H100, H100_SHEET)
H200 = compiled("H200", FLASH_3_H100, H200_SHEET)


def _diffusers_4090d() -> Machine:
    """Return an RTX 4090D with one rate for all products, from a step of 30.5 s at 480p."""
    flops = step_flops(SD)
    products_s = 30.5 - HOST_S - plain_s(RTX_4090D_SHEET, SD)
    tflops = flops.total / products_s / TERA
    return Machine(
        name="4090D, diffusers",
        attention_tflops=tflops,
        linear_tflops=tflops,
        element_bytes=BFLOAT16_PLAIN_BYTES,
        element_gb_s=PLAIN_SHARE * RTX_4090D_SHEET.memory_gb_s,
        vae_tflops=_rtx_4090_vae_tflops(),
        send_gb_s=1.0,  # never sends: one device
    )


def fixed_s(forty_steps_s: float, distilled_s: float) -> float:
    """Return the time outside the steps, from a video of 40 guided steps and one of 4 plain ones.

    A guided step takes as long as two plain ones.
    """
    return (40 * distilled_s - 2 * forty_steps_s) / 38


def _rtx_4090_vae_tflops() -> float:
    return SD.vae_flops / fixed_s(738, 68) / TERA


DIFFUSERS_4090D = _diffusers_4090d()
RTX_4090_CORES = RTX_4090_SHEET.tflops / RTX_4090D_SHEET.tflops
RTX_4090 = replace(
    compiled("RTX 4090", DIFFUSERS_4090D, RTX_4090_SHEET),
    attention_tflops=RTX_4090_CORES * DIFFUSERS_4090D.attention_tflops,
    linear_tflops=RTX_4090_CORES * DIFFUSERS_4090D.linear_tflops,
)


def _mindie() -> Machine:
    """Return an Ascend 910B with the vendor's operators, from four devices at 480p.

    A step of 6.10 s has 3.28 s of attention and 1.13 s of exchanges; 2.1 s are outside the steps.
    """
    clip = replace(SD_TEXT, num_steps=20)
    flops, traffic = step_flops(clip), forward_traffic(clip, 4)
    machine = Machine(
        name="Ascend 910B, MindIE",
        attention_tflops=flops.attention / 4 / 3.28 / TERA,
        linear_tflops=1.0,  # replaced below
        element_bytes=MINDIE_BYTES,
        element_gb_s=PLAIN_SHARE * ASCEND_MEMORY_GB_S,
        vae_tflops=clip.vae_flops / 4 / (124.1 - 20 * 6.10) / TERA,
        send_gb_s=clip.num_branches * traffic.num_bytes / 1.13 / GIGA,
    )
    linear_s = 6.10 - 3.28 - 1.13 - HOST_S - clip.num_branches * element_s(machine, clip) / 4
    return replace(machine, linear_tflops=flops.linear / 4 / linear_s / TERA)


MINDIE = _mindie()
ASCEND = replace(MINDIE, name="Ascend 910B", element_bytes=NPU_BYTES)
# Ten steps take 62.6 s with the default operator and 50.0 s with the other one.
LASER = replace(
    MINDIE,
    name="Ascend 910B, laser",
    attention_tflops=MINDIE.attention_tflops * 3.28 / (3.28 - (62.6 - 50.0) / 10),
)

GB200_ONE_S, GB200_LINK_GB_S = 346.2, 900


def _gb200() -> Machine:
    """Return a GB200 with one rate, from its video at 720p, of which the decoder takes 2.72 s."""
    clip = replace(HD, has_image=False)
    flops = clip.num_branches * forward_flops(clip).total
    tflops = flops / ((GB200_ONE_S - 2.72) / clip.num_steps - HOST_S) / TERA
    return Machine(
        name="GB200",
        attention_tflops=tflops,
        linear_tflops=tflops,
        element_bytes=0.0,
        element_gb_s=1.0,
        vae_tflops=clip.vae_flops / 2.72 / TERA,
        send_gb_s=GB200_LINK_GB_S * LINK_SHARE,
    )


GB200 = _gb200()
