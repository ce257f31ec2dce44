"""Loading the components of a model folder: only what is the model's, and all of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionModel

from ranks.errors import ModelFolderError
from ranks.model.weights import check_fit, load_image_encoder, load_vae
from ranks.model_files.diffusers_folder import read_component
from ranks.model_files.opened_model import open_model

CPU = torch.device("cpu")


@pytest.fixture
def model(demo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_folder, tmp_path / "model"))


def rewrite(path: Path, change: dict[str, Tensor | None]) -> None:
    """Replace, add or (None) remove tensors of a file."""
    tensors = load_file(path) | {name: new for name, new in change.items() if new is not None}
    kept = {name: t for name, t in tensors.items() if change.get(name, t) is not None}
    save_file(kept, path)


def test_a_stray_file_does_not_take_the_place_of_what_the_index_names(model: Path) -> None:
    """The stray file once won: the index said 1, and 7 was loaded."""
    vae = model / "vae"
    tensors = load_file(vae / "diffusion_pytorch_model.safetensors")
    for name, value in (("a", 1.0), ("z", 7.0)):
        filled = {key: torch.full_like(tensor, value) for key, tensor in tensors.items()}
        save_file(filled, vae / f"{name}.safetensors")
    weight_map = dict.fromkeys(tensors, "a.safetensors")
    index = vae / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert {
        float(weight.max())
        for weight in load_vae(read_component(vae), torch.float32, CPU).parameters()
    } == {1}


@pytest.mark.parametrize("prefix", ["", "vision_model."])
@torch.inference_mode()
def test_the_image_encoder_is_the_one_that_transformers_loads(model: Path, prefix: str) -> None:
    """Files of older libraries have a prefix, and may hold the text half of CLIP."""
    folder = model / "image_encoder"
    reference = CLIPVisionModel.from_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {prefix + name: tensor for name, tensor in load_file(path).items()}
    unused = {"text_model.x": torch.ones(2), f"{prefix}embeddings.position_ids": torch.arange(17)}
    save_file(tensors | unused, path)
    pixels = torch.rand(1, 3, 56, 56)
    loaded, expected = (
        encoder(pixels, output_hidden_states=True).hidden_states[-2]
        for encoder in (load_image_encoder(read_component(folder), CPU), reference)
    )
    assert torch.equal(loaded, expected)


def test_an_image_encoder_without_a_weight_is_refused(model: Path) -> None:
    """transformers fills what is missing with random numbers, and only warns."""
    rewrite(model / "image_encoder" / "model.safetensors", {"pre_layrnorm.weight": None})
    with pytest.raises(ModelFolderError, match=r"image_encoder holds no weight pre_layrnorm\.w"):
        load_image_encoder(read_component(model / "image_encoder"), CPU)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("transformer/diffusion_pytorch_model", "vace_blocks.0.proj_in.weight"),
        ("transformer/diffusion_pytorch_model", "blocks.0.attn1.to_q.lora_A.weight"),
        ("vae/diffusion_pytorch_model", "encoder.extra.weight"),
        ("text_encoder/model", "encoder.block.7.layer.0.layer_norm.weight"),
    ],
)
def test_weights_that_the_model_does_not_have_are_refused(
    model: Path, path: str, name: str
) -> None:
    """A neighbour model's weights under this one's config once loaded without a word."""
    check_fit(open_model(model))
    rewrite(model / f"{path}.safetensors", {name: torch.ones(2)})
    with pytest.raises(ModelFolderError, match=f"holds {name}, which the model of its config"):
        check_fit(open_model(model))


def test_a_whole_text_model_lends_its_encoder(model: Path) -> None:
    rewrite(model / "text_encoder" / "model.safetensors", {"decoder.x": torch.ones(2)})
    check_fit(open_model(model))


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        ("transformer", {"num_layers": "many"}),
        ("transformer", {"patch_size": 3}),
        ("image_encoder", {"num_attention_heads": 12}),
    ],
)
def test_a_config_that_no_model_can_be_made_of_is_named(
    model: Path, part: str, fields: dict[str, object]
) -> None:
    path = model / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ModelFolderError, match=f"config of .*{part} describes no model"):
        check_fit(open_model(model))
