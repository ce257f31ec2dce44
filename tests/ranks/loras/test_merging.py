"""Every form of LoRA gives the weights of the formula, and leaves the bits of all others."""

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from msgspec import structs
from torch import Tensor

from ranks.errors import LoraFileError
from ranks.loras.lora_files import LoraFiles, changes_of, unused_names, with_merged
from ranks.loras.merging import LoraMerge
from ranks.model.weights import fill_transformer, meta_transformer
from ranks.model_files.components import Component, ModelFiles
from tests.ranks.loras.lora_forms import FORMS, Write, merged, write_comfy, write_lightx2v

CPU = torch.device("cpu")
TOLERANCE = 1e-6
"""Of merged weights, which are below 2, in float32: sums in another order."""


def load(component: Component, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    model: WanTransformer3DModel = meta_transformer(component, dtype)
    fill_transformer(model, component, CPU)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def load_with(
    model: ModelFiles, *loras: LoraFiles, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    return load(with_merged(model, loras).components["transformer"], dtype)


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("strength", [1.0, -0.4])
def test_each_form_gives_the_weights_of_the_formula(
    model: ModelFiles, weights: dict[str, Tensor], tmp_path: Path, write: Write, strength: float
) -> None:
    path = tmp_path / "a.safetensors"
    changes = write(path, weights)
    assert len(changes) >= 6
    lora = LoraFiles(name="a", paths=(str(path),), strength=strength)
    assert unused_names(changes_of(lora, model)) == []
    found, expected = load_with(model, lora), merged(weights, (changes, strength))
    for name, weight in found.items():
        if name in changes:
            assert not torch.equal(weight, weights[name]), name
            assert torch.allclose(weight, expected[name], rtol=0, atol=TOLERANCE), name
        else:
            assert torch.equal(weight, weights[name]), name


def test_two_loras_add_up(model: ModelFiles, weights: dict[str, Tensor], tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    first, second = write_comfy(paths[0], weights), write_lightx2v(paths[1], weights)
    loras = [
        LoraFiles(name=path.stem, paths=(str(path),), strength=strength)
        for path, strength in zip(paths, (0.5, 2.0), strict=True)
    ]
    found = load_with(model, *loras)
    expected = merged(weights, (first, 0.5), (second, 2.0))
    for name, weight in found.items():
        assert torch.allclose(weight, expected[name], rtol=0, atol=TOLERANCE), name


def test_a_weight_is_rounded_once_after_all_changes(
    model: ModelFiles, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """Rounding the stored weight before the sum would give other bits."""
    path = tmp_path / "a.safetensors"
    changes = write_lightx2v(path, weights)
    lora = LoraFiles(name="a", paths=(str(path),), strength=0.01)
    name = "blocks.1.ffn.net.2.weight"
    found = load_with(model, lora, dtype=torch.bfloat16)[name]
    exact = weights[name].add(changes[name], alpha=0.01)
    assert torch.equal(found, exact.bfloat16())
    assert not torch.equal(
        found, weights[name].bfloat16().add(changes[name], alpha=0.01).bfloat16()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(
    model: ModelFiles, weights: dict[str, Tensor], tmp_path: Path, value: float
) -> None:
    path = tmp_path / "bad.safetensors"
    spoiled = {name: weight.clone() for name, weight in weights.items()}
    write_comfy(path, spoiled)
    content = path.read_bytes()
    last = torch.tensor(value).numpy().tobytes()
    path.write_bytes(content[:-4] + last)
    with pytest.raises(LoraFileError, match=r"bad\.safetensors: the weights hold NaN or infinity"):
        load_with(model, LoraFiles(name="bad", paths=(str(path),)))


def test_a_merge_reads_only_the_rows_of_a_rank(
    transformer: Component, weights: dict[str, Tensor], tmp_path: Path, model: ModelFiles
) -> None:
    """Rows of a change are the product of those rows of B with the whole of A."""
    path = tmp_path / "a.safetensors"
    changes = write_lightx2v(path, weights)
    lora = LoraFiles(name="a", paths=(str(path),))
    component = with_merged(model, [lora]).components["transformer"]
    rows = slice(5, 17)
    with LoraMerge(component.loras) as merge:
        for name in ("blocks.0.attn1.to_q.weight", "blocks.1.ffn.net.2.weight"):
            found = merge.rows(name, weights[name][rows], rows, CPU)
            expected = (weights[name] + changes[name])[rows]
            assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert structs.replace(component, loras=()) == transformer
