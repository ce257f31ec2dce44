"""The memory that jobs of the 14B model take on each rank: `python -m tests.bench.job_memory`.

The server accepts and refuses jobs by these figures; computing them needs no device.
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import nn

from broker.wire.group_shape import GroupShape, choose_layout, job_bytes
from broker.wire.job import JobSpec
from broker.wire.job_memory import GroupMemory
from broker.wire.model_profile import ModelProfile
from ranks.model.model_memory import measure
from tests.ranks.model.real_models import real_models

NUM_HEADS = 40
VAE_DTYPES = {"NPU": torch.bfloat16, "CUDA": torch.float32}
SETTINGS = {
    "none": (),
    "`vae_parallel`": ("vae_parallel",),
    "`t5_fsdp`, `vae_parallel`": ("t5_fsdp", "vae_parallel"),
    "`dit_fsdp`, `t5_fsdp`, `vae_parallel`": ("dit_fsdp", "t5_fsdp", "vae_parallel"),
}
VIDEOS: dict[str, dict[str, int | bool]] = {
    "81 frames": {"num_frames": 81},
    "121 frames": {"num_frames": 121},
    "81, cache": {"num_frames": 81, "use_attentioncache": True},
}


def table() -> str:
    """Return the table as Markdown."""
    columns = [f"{video}, {kind}" for video, kind in product(VIDEOS, VAE_DTYPES)]
    lines = [["ranks", "layout", "set", *columns], ["---"] * (3 + len(columns))]
    for world_size in (8, 4, 2, 1):
        lines += _rows(world_size)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _rows(world_size: int) -> Iterator[list[str]]:
    memories = [measured(world_size, dtype) for dtype in VAE_DTYPES.values()]
    shape = GroupShape(world_size=world_size, num_heads=NUM_HEADS)
    for name, flags in SETTINGS.items() if world_size > 1 else [("none", ())]:
        specs = [_spec(video, flags) for video in VIDEOS.values()]
        cfg_size, ulysses_size = choose_layout(specs[0], shape)
        needed = (
            job_bytes(spec, memory, cfg_size, ulysses_size, ModelProfile())
            for spec, memory in product(specs, memories)
        )
        figures = [f"{num_bytes / 2**30:.1f}" for num_bytes in needed]
        yield [str(world_size), f"{cfg_size} x {ulysses_size}", name, *figures]


def _spec(video: dict[str, int | bool], flags: tuple[str, ...]) -> JobSpec:
    spec: dict[str, object] = {"prompt": "only the size counts", **video}
    return JobSpec(**spec | dict.fromkeys(flags, True))  # type: ignore[arg-type]


def measured(world_size: int, vae_dtype: torch.dtype) -> GroupMemory:
    """Return the memory that the ranks of a group would report."""
    transformer, text_encoder, image_encoder, vae = real_models()
    nn.Module.to(vae, vae_dtype)
    return measure(
        [transformer],
        text_encoder,
        image_encoder,
        vae,
        num_embedded_images=1,
        world_size=world_size,
        capacity_bytes=0,
    )


if __name__ == "__main__":
    print(table())
