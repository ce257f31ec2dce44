"""The demo's video in every form of 8-bit linears, made by one rank of the engine."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from broker.wire.group_shape import GroupShape
from broker.wire.job import JobSpec
from broker.wire.model_profile import EightBit
from ranks.control import Decision
from ranks.device import open_device
from ranks.engine import Engine
from ranks.families.known_families import family_of
from ranks.loras.lora_switch import LoraSwitch
from ranks.model.conditioning import load_models
from ranks.model_files.opened_model import open_model
from ranks.model_files.profiles import profile_of
from ranks.model_files.quantization import Quantize
from ranks.parallel.process_group import World
from ranks.parallel.sharding import num_weight_bytes
from ranks.run import LocalJob, Run
from tests.ranks.lone_engine import Watcher

FORMS: tuple[EightBit | None, ...] = (None, "fp8", "int8")


@torch.inference_mode()
def make_videos(
    rank: int, world_size: int, model: Path, image: Path, spec: JobSpec, results: Path
) -> None:
    """Write the frames of a job as `FORM.safetensors`, with the bytes of the transformer."""
    for form in FORMS:
        engine = _start(rank, world_size, model, form)
        job = LocalJob(spec=spec, image=image)
        frames = torch.cat(list(Run(engine, job, Watcher()).frames()), dim=2)
        num_bytes = num_weight_bytes(engine.models.transformers[0])
        held = {"frames": frames, "bytes": torch.tensor(num_bytes)}
        safetensors.torch.save_file(held, results / f"{form}.safetensors")


def read_video(results: Path, form: EightBit | None) -> tuple[Tensor, int]:
    """Return the frames `[1, 3, T, H, W]`, from -1 to 1, and the bytes of the transformer."""
    held = safetensors.torch.load_file(results / f"{form}.safetensors")
    return held["frames"], int(held["bytes"])


def psnr_db(found: Tensor, expected: Tensor) -> float:
    error = (found - expected).square().mean()
    return float(10 * torch.log10(4 / error))  # values span 2


def _start(rank: int, world_size: int, model: Path, form: EightBit | None) -> Engine:
    device = open_device("cpu", rank, world_size)
    files = open_model(model, quantize=None if form is None else Quantize(form))
    models = load_models(files, device, None)
    shape = GroupShape(
        world_size=world_size,
        num_heads=models.transformers[0].num_heads,
        model=profile_of(files, "demo"),
    )
    engine = Engine(
        family_of(files),
        models,
        device,
        World(rank, world_size),
        shape,
        LoraSwitch(models.transformers, files, ()),
        dit_fsdp=False,
        t5_fsdp=False,
        vae_parallel=False,
    )
    engine.control.decide = lambda: Decision.GO_ON
    return engine
