"""`python -m ranks.model.memory_need PATH [--transformer FILE]…`: what jobs need, as JSON.

It uses the figures that the ranks report to the broker, and loads nothing.
"""

import logging
import sys

import msgspec
import torch
from msgspec import structs

from broker.wire.group_shape import GroupShape, job_bytes, layout_sizes
from broker.wire.job import JobSpec
from broker.wire.model_profile import ModelProfile
from ranks.device import Device, describe, find_kind
from ranks.errors import ModelFolderError
from ranks.families.known_families import family_of
from ranks.model.model_memory import measure, usable_bytes
from ranks.model.weights import (
    meta_image_encoder,
    meta_text_encoder,
    meta_transformer,
    meta_vae,
)
from ranks.model_files.components import ComponentName, ModelFiles
from ranks.model_files.inspection import parse_arguments
from ranks.model_files.model_report import JobMemory, MemoryReport
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import profile_of
from ranks.model_files.weight_memory import NUM_RANKS

_TRANSFORMERS: tuple[ComponentName, ...] = ("transformer", "transformer_2")


def main() -> int:
    logging.disable()  # standard error has the one line that the launcher shows
    device = Device(kind=find_kind("auto"), index=0)
    try:
        path, transformers, _ = parse_arguments()
        report = memory_report(open_model(path, transformers), device)
    except ModelFolderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


def memory_report(files: ModelFiles, device: Device) -> MemoryReport:
    """Return what a job of the default size and the longest trained clip needs.

    The figures are those of accelerators, even on a machine without any.
    """
    profile = profile_of(files, ModelProfile().name)
    spec = _largest_usual_job(profile)
    return MemoryReport(
        image_size=spec.image_size,
        num_frames=spec.num_frames,
        jobs=_needed(files, profile, spec, device.vae_dtype),
        devices=describe(device.kind),
        usable_bytes=usable_bytes(device.capacity_bytes()),
    )


def _needed(
    files: ModelFiles, profile: ModelProfile, spec: JobSpec, vae_dtype: torch.dtype
) -> dict[int, JobMemory]:
    components, dtype = files.components, torch.bfloat16
    transformers = [
        meta_transformer(components[name], dtype) for name in _TRANSFORMERS if name in components
    ]
    text_encoder = meta_text_encoder(components["text_encoder"], dtype)
    encoder = components.get("image_encoder")
    image_encoder = None if encoder is None else meta_image_encoder(encoder)
    vae = meta_vae(components["vae"], vae_dtype)
    jobs = {}
    for world_size in NUM_RANKS:
        memory = measure(
            *(transformers, text_encoder, image_encoder, vae),
            num_embedded_images=family_of(files).num_embedded_images,
            world_size=world_size,
            capacity_bytes=0,
        )
        shape = GroupShape(world_size=world_size, num_heads=files.num_heads, model=profile)
        sizes = layout_sizes(spec, shape)
        sharded = structs.replace(spec, dit_fsdp=True, t5_fsdp=True, vae_parallel=True)
        jobs[world_size] = JobMemory(
            plain_bytes=job_bytes(spec, memory, *sizes, profile),
            sharded_bytes=job_bytes(sharded, memory, *sizes, profile),
        )
    return jobs


def _largest_usual_job(profile: ModelProfile) -> JobSpec:
    return JobSpec(
        prompt="only the size counts",
        image_size=profile.image_size,
        num_frames=profile.trained_frames,
        guidance_scale=profile.guidance_scale,
    )


if __name__ == "__main__":
    sys.exit(main())
