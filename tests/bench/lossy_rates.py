"""Rates of lossy kernels, from published lossy times: SageAttention2, and 8-bit linear layers.

LightX2V's 751 s on one H200 at 720p, 18.8 s a step, are such a time: its configuration names
SageAttention2, which multiplies in INT8 and FP8. The lossless rates do not depend on it.
"""

from dataclasses import replace

from tests.bench.anchors import (
    COMPILED_SHARE,
    DIFFUSERS_4090D,
    H100_SHEET,
    H200,
    HD,
    HOPPER_LINEAR_TFLOPS,
    RTX_4090,
    RTX_4090_CORES,
    RTX_4090D_SHEET,
    SD,
    compiled,
    fixed_s,
)
from tests.bench.cost import Clip, forward_traffic, step_flops
from tests.bench.machines import GIGA, HOST_S, TERA, Layout, Machine, step_s


def with_sage(name: str, machine: Machine, clip: Clip, published_s: float) -> Machine:
    """Return the machine with the attention rate that explains a step."""
    others_s = published_s - step_s(replace(machine, attention_tflops=1e9), clip, Layout())
    attention_tflops = step_flops(clip).attention / others_s / TERA
    return replace(machine, name=name, attention_tflops=attention_tflops)


# 191 and 14 s on one H200 at 480p; the time outside the steps is the VAE's.
_LIGHTX2V_VAE_TFLOPS = SD.vae_flops / fixed_s(191, 14) / TERA
_LIGHTX2V_VAE_S = HD.vae_flops / _LIGHTX2V_VAE_TFLOPS / TERA
SAGE_STEP_S = (751 - _LIGHTX2V_VAE_S) / 40
SAGE_H200 = with_sage(
    "H200, SageAttention2", replace(H200, vae_tflops=_LIGHTX2V_VAE_TFLOPS), HD, SAGE_STEP_S
)
SAGE_H100 = replace(
    SAGE_H200, name="H100, SageAttention2", element_gb_s=COMPILED_SHARE * H100_SHEET.memory_gb_s
)
_SAGE_4090D = with_sage(
    "4090D, SageAttention2", compiled("", DIFFUSERS_4090D, RTX_4090D_SHEET), SD, 20.26
)


def _send_gb_s() -> float:
    """Return a rank's send rate over the host, from 4.75 s a step on eight 4090D at 480p."""
    alone_s = step_s(_SAGE_4090D, replace(SD, num_branches=1), Layout()) - HOST_S
    sending_s = 4.75 - HOST_S - alone_s / 4
    return forward_traffic(SD, 4).num_bytes / sending_s / GIGA


SAGE_4090D = replace(_SAGE_4090D, send_gb_s=_send_gb_s())
SAGE_4090 = replace(
    RTX_4090,
    name="RTX 4090, SageAttention2",
    attention_tflops=RTX_4090_CORES * SAGE_4090D.attention_tflops,
)


def _fp8_gain() -> float:
    """Return how much faster linear layers are in FP8, from 751 and 671 s on one H200 at 720p."""
    linear_s = step_flops(HD).linear / (HOPPER_LINEAR_TFLOPS * TERA)
    return linear_s / (linear_s - (751 - 671) / HD.num_steps)


FP8_GAIN = _fp8_gain()
INT8_GAIN = 2.0
"""By the 910B's data sheet."""


def in_8_bit(machine: Machine) -> Machine:
    """Return the machine with 8-bit linear layers: INT8 on an NPU, FP8 elsewhere."""
    gain = INT8_GAIN if machine.name.startswith("Ascend") else FP8_GAIN
    return replace(
        machine, name=f"{machine.name}, 8 bit", linear_tflops=gain * machine.linear_tflops
    )
