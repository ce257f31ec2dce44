"""Compares the samplers with reference numbers from those published with Wan2.1."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ranks.sampling.solver import Solver, make_scheduler

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "solvers.json").read_text())
TOLERANCE = VECTORS["verification"]["suggested_absolute_tolerance_final_latents"]

every_case = pytest.mark.parametrize(
    "case",
    VECTORS["cases"],
    ids=[f"{c['solver']}, {c['num_steps']} steps, shift {c['shift']}" for c in VECTORS["cases"]],
)


def velocity(latents: Tensor, sigma: float) -> Tensor:
    """The synthetic model for which the reference numbers were computed."""
    return torch.sin(latents * 3.0) * 0.5 + (latents * sigma) * 0.1


def as_latents(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers).view(1, -1, 1, 1, 1)


def assert_near(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, as_latents(expected), rtol=0, atol=TOLERANCE)


def run(solver: Solver, sigmas: list[float], latents: Tensor, steps: range) -> dict[int, Tensor]:
    after = {}
    for step in steps:
        latents = solver.advance(step, velocity(latents, sigmas[step]), latents)
        after[step + 1] = latents
    return after


@every_case
def test_the_schedule_is_identical_to_the_official_one(case: dict[str, Any]) -> None:
    scheduler = make_scheduler(case["solver"], case["num_steps"], case["shift"])
    assert scheduler.sigmas.dtype == torch.float32
    assert scheduler.timesteps.dtype == torch.int64
    assert scheduler.sigmas.tolist() == [float(np.float32(sigma)) for sigma in case["sigmas"]]
    assert scheduler.timesteps.tolist() == case["timesteps"]


@every_case
def test_the_latents_follow_the_official_ones(case: dict[str, Any]) -> None:
    solver = Solver(case["solver"], case["num_steps"], case["shift"])
    start = as_latents(VECTORS["start_latents"])
    after = run(solver, case["sigmas"], start, range(case["num_steps"]))
    for step, expected in case["latents_after_step"].items():
        assert_near(after[int(step)], expected)
    assert_near(after[case["num_steps"]], case["final_latents"])


@every_case
@pytest.mark.parametrize("stop", [1, 2, 7])
def test_a_restored_solver_continues_to_identical_latents(case: dict[str, Any], stop: int) -> None:
    parameters = case["solver"], case["num_steps"], case["shift"]
    start, sigmas = as_latents(VECTORS["start_latents"]), case["sigmas"]
    whole = run(Solver(*parameters), sigmas, start, range(case["num_steps"]))

    first, second = Solver(*parameters), Solver(*parameters)
    latents = run(first, sigmas, start, range(stop))[stop]
    second.restore(first.history())
    rest = run(second, sigmas, latents, range(stop, case["num_steps"]))
    assert torch.equal(rest[case["num_steps"]], whole[case["num_steps"]])
