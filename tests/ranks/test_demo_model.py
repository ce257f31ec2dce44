"""The demo checkpoint."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from ranks.demo_model import make_demo_model
from ranks.model_folder import check_model_folder, num_attention_heads


def test_the_folder_passes_for_a_real_one(demo_folder: Path) -> None:
    check_model_folder(demo_folder)
    assert num_attention_heads(demo_folder) == 8
    index = json.loads((demo_folder / "model_index.json").read_text())
    assert index["_class_name"] == "WanImageToVideoPipeline"
    assert index["transformer"] == ["diffusers", "WanTransformer3DModel"]


def test_the_same_weights_are_made_every_time(demo_folder: Path, tmp_path: Path) -> None:
    make_demo_model(tmp_path / "again")
    for path in demo_folder.glob("*/*.safetensors"):
        first = load_file(path)
        second = load_file(tmp_path / "again" / path.relative_to(demo_folder))
        assert all(torch.equal(second[name], weight) for name, weight in first.items())


def test_nothing_but_the_folder_is_left(tmp_path: Path) -> None:
    make_demo_model(tmp_path / "demo")
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]
