"""The time of a video on a machine, from the rates that a software reaches on it.

A rate is what was reached, not the machine's limit. Nothing overlaps, and the encoders of text and
image are left out.
"""

from dataclasses import dataclass

from tests.bench.cost import Clip, forward_flops, forward_traffic

TERA = 1e12
GIGA = 1e9
HOST_S = 0.05
"""Seconds per step without work for the device: launches, solver, copies. An estimate."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The rates of one device with a software."""

    name: str
    attention_tflops: float
    linear_tflops: float
    element_bytes: float
    """Bytes per token and block that element-wise operations move."""
    element_gb_s: float
    """Bytes per second at which they move them."""
    vae_tflops: float
    send_gb_s: float
    """Bytes per second that a rank sends in Ulysses' exchanges, including the time that ranks wait
    for one another; independent of the number of ranks.
    """


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many ranks, and how they split the work."""

    cfg_size: int = 1
    ulysses_size: int = 1
    is_vae_split: bool = False

    @property
    def num_ranks(self) -> int:
        return self.cfg_size * self.ulysses_size


def element_s(machine: Machine, clip: Clip) -> float:
    """Return the time of the element-wise operations of a forward pass on one device."""
    return clip.num_token_blocks * machine.element_bytes / (machine.element_gb_s * GIGA)


def step_s(machine: Machine, clip: Clip, layout: Layout, *, is_reused: bool = False) -> float:
    """Return the time of one denoising step.

    A step of which the attention cache reuses the self-attention counts with all its element-wise
    operations, which is somewhat too many.
    """
    flops = forward_flops(clip, is_reused=is_reused)
    traffic = forward_traffic(clip, layout.ulysses_size)
    alone_s = flops.attention / (machine.attention_tflops * TERA)
    alone_s += flops.linear / (machine.linear_tflops * TERA)
    alone_s += element_s(machine, clip)
    send_s = 0.0 if is_reused else traffic.num_bytes / (machine.send_gb_s * GIGA)
    num_forwards = clip.num_branches / min(layout.cfg_size, clip.num_branches)
    return num_forwards * (alone_s / layout.ulysses_size + send_s) + HOST_S


def video_s(
    machine: Machine,
    clip: Clip,
    layout: Layout,
    *,
    num_reused: float = 0,
    num_skipped: float = 0,
) -> float:
    """Return the time of a whole video.

    Args:
        machine: The rates.
        clip: The video.
        layout: The ranks.
        num_reused: Steps in which the attention cache replaces the self-attention.
        num_skipped: Steps in which a step cache replaces the whole transformer.
    """
    num_computed = clip.num_steps - num_reused - num_skipped
    steps_s = num_computed * step_s(machine, clip, layout)
    steps_s += num_reused * step_s(machine, clip, layout, is_reused=True)
    num_parts = layout.num_ranks if layout.is_vae_split else 1
    return steps_s + clip.vae_flops / num_parts / (machine.vae_tflops * TERA)
