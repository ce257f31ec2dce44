"""Original names become those of diffusers and transformers, one to one, for published models."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from torch import Tensor

from ranks.demo.original_layout import original_tensors
from ranks.errors import ModelFolderError
from ranks.model_files.architecture import shapes_of
from ranks.model_files.components import Component, ComponentName
from ranks.model_files.original_components import (
    image_encoder_of,
    text_encoder_of,
    transformer_of,
    vae_of,
)
from ranks.model_files.original_vae import vae_config
from ranks.model_files.weight_files import StoredWeight
from ranks.model_files.weight_fit import check_shapes
from tests.ranks.model_files.real_shapes import CONFIGS, I2V, SMALL_VAE, VAE_21, VAE_22

PLACE = Path("original")


def on_meta(part: ComponentName, config: dict[str, Any]) -> dict[str, Tensor]:
    shapes = shapes_of(part, config)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def read_back(
    part: ComponentName, config: dict[str, Any], original: dict[str, Tensor]
) -> Component:
    """Read tensors under original names, as from a file."""
    stored = {
        name: StoredWeight(PLACE, name, tuple(tensor.shape), "F32")
        for name, tensor in original.items()
    }
    match part:
        case "transformer" | "transformer_2":
            return transformer_of(PLACE, stored, config["num_attention_heads"], [])
        case "text_encoder":
            return text_encoder_of(PLACE, stored)
        case "image_encoder":
            return image_encoder_of(PLACE, stored)
        case "vae":
            return vae_of(PLACE, stored)


@pytest.mark.parametrize(("part", "config", "_"), CONFIGS.values(), ids=CONFIGS)
def test_every_weight_of_a_published_model_is_found_once_and_its_config_derived(
    part: ComponentName, config: dict[str, Any], _: int
) -> None:
    tensors = on_meta(part, config)
    component = read_back(part, config, original_tensors(part, config, tensors))
    check_shapes(part, component)
    assert component.weights.keys() == tensors.keys()
    used = Counter((where.name, where.first_row) for where in component.weights.values())
    assert set(used.values()) == {1}
    derived = {name: value for name, value in component.config.items() if name in config}
    stated = {name: value for name, value in config.items() if name in derived}
    assert derived == stated


@pytest.mark.parametrize("name", ["Wan2.1 I2V-14B", "Wan2.2 I2V-A14B, an expert", "Wan2.2 TI2V-5B"])
def test_transformers_get_the_names_that_diffusers_gives(name: str) -> None:
    part, config, _ = CONFIGS[name]
    original = original_tensors(part, config, on_meta(part, config))
    component = read_back(part, config, original)
    assert component.weights.keys() == convert_wan_transformer_to_diffusers(original).keys()


def test_the_vae_gets_the_names_that_diffusers_gives() -> None:
    original = original_tensors("vae", VAE_21, on_meta("vae", VAE_21))
    component = read_back("vae", VAE_21, original)
    assert component.weights.keys() == convert_wan_vae_to_diffusers(original).keys()


def test_a_vae_is_told_from_another_by_its_shapes() -> None:
    for config in (VAE_21, VAE_22, SMALL_VAE):
        original = original_tensors("vae", config, on_meta("vae", config))
        derived = vae_config({name: tuple(tensor.shape) for name, tensor in original.items()})
        assert len(derived["latents_mean"]) == len(derived["latents_std"]) == config["z_dim"]
        assert {name: derived[name] for name in config} == config


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("vace_blocks.0.before_proj.weight", "Wan VACE"),
        ("face_adapter.fuser_blocks.0.linear1_q.weight", "Wan Animate"),
        ("casual_audio_encoder.weights", "Wan S2V"),
    ],
)
def test_a_weight_of_a_neighbour_model_names_it(name: str, model: str) -> None:
    original = original_tensors("transformer", I2V, on_meta("transformer", I2V))
    original[name] = torch.empty(1, device="meta")
    with pytest.raises(ModelFolderError, match=f"holds {name}, a weight of {model}"):
        read_back("transformer", I2V, original)


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vae", lambda t: t.pop("encoder.conv1.weight"), "does not hold the weights of a VAE"),
        ("text_encoder", lambda t: t.update(x=t["norm.weight"]), "holds x, .* no weight of UMT5"),
        (
            "image_encoder",
            lambda t: t.pop("visual.pos_embedding"),
            "does not hold the weights of open-CLIP",
        ),
    ],
)
def test_a_file_of_something_else_is_named(
    part: ComponentName, change: Change, message: str
) -> None:
    config = next(config for name, config, _ in CONFIGS.values() if name == part)
    original = original_tensors(part, config, on_meta(part, config))
    change(original)
    with pytest.raises(ModelFolderError, match=message):
        read_back(part, config, original)
