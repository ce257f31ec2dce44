"""The profile of distilled models."""

from pathlib import Path

import torch

from ranks.model_files.inspection import inspect
from ranks.model_files.model_choice import ModelChoice
from ranks.model_files.model_report import ModelFault, ModelReport
from ranks.sampling.solver import make_solver
from tests.ranks.conftest import DemoFolders


def test_the_defaults_are_those_that_the_weights_are_made_for(demo_folder: Path) -> None:
    plain, found = (
        inspect(ModelChoice(demo_folder)),
        inspect(ModelChoice(demo_folder, is_distilled=True)),
    )
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
    found = inspect(ModelChoice(demo_folders("wan2.2-ti2v-5b"), is_distilled=True))
    assert isinstance(found, ModelFault)
    assert "a model of the family wan2.2-ti2v-5b; only those of wan2.1-i2v and" in found.message
