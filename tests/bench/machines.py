"""The time of a video on machines with published measurements.

A rate is what a software reached on a machine, not the machine's limit. If a source gives only a
total, one rate stands for attention and linear layers together.
"""

from dataclasses import dataclass

from ranks.sampling.attention_cache import CacheSchedule
from tests.bench.cost import Clip, forward_flops, forward_traffic

TERA = 1e12
GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The rates of one device with a software."""

    name: str
    attention_tflops: float
    linear_tflops: float
    """Includes all element-wise operations."""
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


def step_s(machine: Machine, clip: Clip, layout: Layout, *, is_reused: bool = False) -> float:
    """Return the time of one denoising step, assuming that nothing overlaps."""
    flops = forward_flops(clip, is_reused=is_reused)
    traffic = forward_traffic(clip, layout.ulysses_size)
    attention_s = flops.attention / layout.ulysses_size / (machine.attention_tflops * TERA)
    linear_s = flops.linear / layout.ulysses_size / (machine.linear_tflops * TERA)
    send_s = 0.0 if is_reused else traffic.num_bytes / (machine.send_gb_s * GIGA)
    num_forwards = clip.num_branches / min(layout.cfg_size, clip.num_branches)
    return num_forwards * (attention_s + linear_s + send_s)


def video_s(
    machine: Machine, clip: Clip, layout: Layout, cache: CacheSchedule | None = None
) -> float:
    """Return the time of a whole video, without the encoders of text and image."""
    reused = sum(cache.reuses(step) for step in range(clip.num_steps)) if cache else 0
    steps_s = (clip.num_steps - reused) * step_s(machine, clip, layout)
    steps_s += reused * step_s(machine, clip, layout, is_reused=True)
    num_parts = layout.num_ranks if layout.is_vae_split else 1
    return steps_s + clip.vae_flops / num_parts / (machine.vae_tflops * TERA)


def calibrate_total(
    name: str, clip: Clip, *, one_s: float, eight_s: float, send_gb_s: float
) -> Machine:
    """Return a machine whose one device takes `one_s` for a video, and eight `eight_s`.

    The eight split only the sequence; the time that does not shrink is attributed to the VAE.
    """
    traffic = forward_traffic(clip, 8)
    num_forwards = clip.num_steps * clip.num_branches
    sending_s = num_forwards * traffic.num_bytes / (send_gb_s * GIGA)
    # one_s = alone + shared, eight_s = alone + shared / 8 + sending
    shared_s = (one_s - eight_s + sending_s) * 8 / 7
    tflops = num_forwards * forward_flops(clip).total / shared_s / TERA
    return Machine(
        name=name,
        attention_tflops=tflops,
        linear_tflops=tflops,
        vae_tflops=clip.vae_flops / (one_s - shared_s) / TERA,
        send_gb_s=send_gb_s,
    )
