"""The 14B transformer with its real index, names and shapes, in files of holes, in both layouts."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from ranks.demo.original_layout import original_tensors
from ranks.model_files.architecture import transformer_shapes
from ranks.model_files.components import ComponentName
from ranks.model_files.opened_model import open_model
from ranks.model_files.original_folder import IMAGE_ENCODER, TEXT_ENCODER, TOKENIZER, VAE_21
from tests.ranks.model_files.real_shapes import I2V
from tests.stub_model import FILES, SHAPES, make_stub_model, set_fields, write_holes

NUM_SHARDS = 7
STEM = "diffusion_pytorch_model"


def write_shards(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    weight_map: dict[str, str] = {}
    for number in range(NUM_SHARDS):
        file = f"{STEM}-{number + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        part = {name: shapes[name] for name in sorted(shapes)[number::NUM_SHARDS]}
        write_holes(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def make_diffusers(folder: Path) -> Path:
    make_stub_model(folder)
    transformer = folder / "transformer"
    (transformer / f"{STEM}.safetensors").unlink()
    set_fields(transformer / "config.json", **I2V)
    write_shards(transformer, transformer_shapes(I2V))
    return folder


def make_original(folder: Path) -> Path:
    folder.mkdir()
    on_meta = {
        name: torch.empty(shape, device="meta") for name, shape in transformer_shapes(I2V).items()
    }
    named = original_tensors("transformer", I2V, on_meta)
    write_shards(folder, {name: tuple(tensor.shape) for name, tensor in named.items()})
    stated = {"_class_name": "WanModel", "model_type": "i2v", "dim": 5120, "num_heads": 40}
    (folder / "config.json").write_text(json.dumps(stated | {"num_layers": 40, "in_dim": 36}))
    parts: tuple[tuple[ComponentName, str], ...] = (
        ("text_encoder", TEXT_ENCODER),
        ("image_encoder", IMAGE_ENCODER),
        ("vae", VAE_21),
    )
    for name, file in parts:
        save_part(folder / file, name)
    tokenizer = folder / TOKENIZER
    tokenizer.mkdir(parents=True)
    for own in ("tokenizer.json", "tokenizer_config.json"):
        (tokenizer / own).write_text(json.dumps(FILES[f"tokenizer/{own}"]))
    return folder


def save_part(path: Path, name: ComponentName) -> None:
    config = FILES[f"{name}/config.json"] | {"num_res_blocks": 2, "num_attention_heads": 16}
    weights = {key: torch.zeros(shape) for key, shape in SHAPES[name](config).items()}
    torch.save(original_tensors(name, config, weights), path)


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_every_tensor_of_the_14b_transformer_is_found_and_none_twice(
    tmp_path: Path, layout: str
) -> None:
    make = make_diffusers if layout == "diffusers" else make_original
    files = open_model(make(tmp_path / "model"))
    transformer = files.components["transformer"]
    assert files.layout == layout
    assert len(transformer.weights) == 1303
    assert transformer.strays == []
    used = Counter((where.path, where.name) for where in transformer.weights.values())
    assert set(used.values()) == {1}
    assert sum(where.num_bytes for where in transformer.weights.values()) == 65_579_515_136
