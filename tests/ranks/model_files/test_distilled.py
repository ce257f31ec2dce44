"""Distilled models: their profile, and the pair of files of Wan2.2 A14B."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ranks.demo.original_layout import original_tensors
from ranks.errors import ModelFolderError
from ranks.model_files.inspection import inspect
from ranks.model_files.model_report import ModelFault, ModelReport
from ranks.model_files.opened_model import open_model
from ranks.sampling.solver import make_solver
from tests.ranks.conftest import DemoFolders

PAIR = ["wan2.2_high_noise_4step.safetensors", "wan2.2_low_noise_4step.safetensors"]


@pytest.fixture(scope="module")
def pair(demo_folders: DemoFolders, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The two transformers of the demo A14B as single files with their original names."""
    folder, place = tmp_path_factory.mktemp("pair"), demo_folders("wan2.2-i2v-a14b")
    for file, part in zip(PAIR, ("transformer", "transformer_2"), strict=True):
        tensors = load_file(place / part / "diffusion_pytorch_model.safetensors")
        save_file(original_tensors("transformer", {}, tensors), folder / file)
    return [folder / file for file in PAIR]


def test_the_defaults_are_those_that_the_weights_are_made_for(demo_folder: Path) -> None:
    plain, found = inspect(demo_folder), inspect(demo_folder, is_distilled=True)
    assert isinstance(plain, ModelReport)
    assert isinstance(found, ModelReport)
    profile = found.profile
    assert (profile.min_steps, profile.infer_steps, profile.max_steps) == (1, 4, 8)
    assert (profile.guidance_scale, profile.max_guidance_scale) == (1.0, 1.0)
    assert profile.content_hash != plain.profile.content_hash
    solver = make_solver(profile.sample_solver, profile.infer_steps, profile.sample_shift)
    timesteps = torch.stack([solver.timestep(step) for step in range(4)])
    torch.testing.assert_close(timesteps, torch.tensor([1000.0, 937.5, 2500 / 3, 625.0]))


def test_a_family_without_a_known_schedule_is_refused(demo_folders: DemoFolders) -> None:
    found = inspect(demo_folders("wan2.2-ti2v-5b"), is_distilled=True)
    assert isinstance(found, ModelFault)
    assert "a model of the family wan2.2-ti2v-5b; only those of wan2.1-i2v and" in found.message


def test_a_pair_of_files_takes_the_places_of_both_transformers(
    demo_folders: DemoFolders, pair: list[Path]
) -> None:
    found = open_model(demo_folders("wan2.2-i2v-a14b"), *pair).components
    for part, file in zip(("transformer", "transformer_2"), pair, strict=True):
        assert {where.path for where in found[part].weights.values()} == {file}  # type: ignore[index]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 0], "names wan2.2_low_noise_4step.safetensors first; expected the file for high"),
        ([0], "is 1 file.*two transformers .*: give HIGH,LOW"),
        ([0, 1, 1], "is 3 file.*two transformers"),
    ],
)
def test_files_that_are_swapped_or_not_two_are_refused(
    demo_folders: DemoFolders, pair: list[Path], order: list[int], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message):
        open_model(demo_folders("wan2.2-i2v-a14b"), *(pair[index] for index in order))


def test_two_files_for_a_model_with_one_transformer_are_refused(
    demo_folder: Path, pair: list[Path]
) -> None:
    with pytest.raises(ModelFolderError, match=r"is 2 file.*has one"):
        open_model(demo_folder, *pair)
