"""Loading a transformer from disk and changing its LoRA, on one device."""

import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from broker.wire.lora import LoraChoice
from ranks.device import Device
from ranks.loras.lora_switch import LoraSwitch
from ranks.model.transformer import ShardTransformer
from ranks.model.weights import load_transformers
from ranks.model_files.components import ModelFiles
from ranks.model_files.diffusers_folder import read_component
from tests.bench.device_rates import time_s
from tests.bench.loras import write_lora
from tests.bench.random_models import Size
from tests.rehearsal.sparse_model import in_parts, write_sparse


def lora_switch_s(size: Size, device: Device) -> dict[str, float]:
    """Return the time to load the transformer, and to take a LoRA of rank 64 in and out again.

    The weights are holes in a file, so no disk is measured.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _write_transformer(folder, size)
        loaded: list[tuple[ShardTransformer, ...]] = []
        load = partial(load_transformers, files, device, None)
        load_s = time_s(device, lambda: loaded.append(load()[0]), 1, 0)
        transformers = loaded.pop()
        lora = write_lora(folder / "lora.safetensors", transformers[0].model.blocks)
        switch = LoraSwitch(transformers, files, [lora])
        choices, hashes = [LoraChoice(name=lora.name)], {lora.name: lora.hashes}
        in_s = time_s(device, lambda: switch.use(choices, hashes), 1, 0)
        out_s = time_s(device, lambda: switch.use([], {}), 1, 0)
    return {"load_s": load_s, "in_s": in_s, "out_s": out_s}


def _write_transformer(folder: Path, size: Size) -> ModelFiles:
    config = size.config("transformer")
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    (folder / "config.json").write_text(json.dumps(config))
    torch.nn.Module.to(model, torch.bfloat16)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(in_parts(model.named_parameters())):
        path = folder / f"part-{number}.safetensors"
        write_sparse(path, part)
        weight_map |= {name: path.name for name, _ in part}
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return ModelFiles(
        place=folder,
        family="wan2.1-i2v",
        components={"transformer": read_component(folder)},
        tokenizer=folder,
        image_processor=None,
    )
