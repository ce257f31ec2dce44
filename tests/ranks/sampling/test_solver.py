"""Compares the samplers with reference numbers from those published with Wan2.1."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from broker.wire.job import JobSpec
from broker.wire.job import Solver as SolverName
from ranks.sampling.solver import Solver, make_solver
from tests.ranks.schedulers import make_scheduler

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
    solver = make_solver(case["solver"], case["num_steps"], case["shift"])
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
    whole = run(make_solver(*parameters), sigmas, start, range(case["num_steps"]))

    first, second = make_solver(*parameters), make_solver(*parameters)
    latents = run(first, sigmas, start, range(stop))[stop]
    second.restore(dict(sorted(first.history().items(), reverse=True)))  # files have another order
    rest = run(second, sigmas, latents, range(stop, case["num_steps"]))
    assert torch.equal(rest[case["num_steps"]], whole[case["num_steps"]])


def accepted(**fields: Any) -> JobSpec:
    """Return a job with these values, which the API must accept."""
    job = {"prompt": "a lighthouse at sunset", **fields}
    return msgspec.convert(job, JobSpec)


shifts = st.floats(0.0, 100.0, exclude_min=True) | st.floats(-320.0, 2.0).map(
    lambda exponent: max(10.0**exponent, 5e-324)
)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(get_args(SolverName)),
    num_steps=st.integers(20, 100),
    shift=shifts,
    guidance_scale=st.floats(1.0, 20.0),
)
@example("unipc", 100, 12.0, 1.0)
@example("unipc", 50, 25.0, 1.0)
@example("unipc", 30, 40.0, 1.0)
@example("unipc", 20, 60.0, 20.0)
@example("unipc", 20, 1e-12, 1.0)
@example("dpm++", 20, 1e-12, 1.0)
@example("unipc", 20, 5e-324, 20.0)
@example("dpm++", 20, 5e-324, 20.0)
@example("dpm++", 100, 100.0, 20.0)
@example("euler", 20, 5e-324, 20.0)
@example("euler", 100, 100.0, 20.0)
def test_a_job_runs_with_every_accepted_value(
    name: SolverName, num_steps: int, shift: float, guidance_scale: float
) -> None:
    """Otherwise a job would be accepted, wait, and fail for a value that is in its range."""
    spec = accepted(
        sample_solver=name,
        infer_steps=num_steps,
        sample_shift=shift,
        guidance_scale=guidance_scale,
    )
    solver = make_solver(spec.solver, spec.infer_steps, spec.sample_shift)
    latents = as_latents(VECTORS["start_latents"])
    for step in range(spec.infer_steps):
        prediction = velocity(latents, 1.0)
        latents = solver.advance(step, prediction * spec.guidance_scale, latents)
        assert latents.isfinite().all(), f"after step {step + 1}"


@pytest.mark.parametrize("name", get_args(SolverName))
@pytest.mark.parametrize("num_steps", [1, 2, 3, 20, 50, 100])
def test_a_solver_begins_at_its_first_step_and_ends_at_its_last(
    name: SolverName, num_steps: int
) -> None:
    """Two equal timesteps at the start made it begin at the second."""
    for shift in (1e-12, 5.0, 100.0):
        solver = make_solver(name, num_steps, shift)
        latents = as_latents(VECTORS["start_latents"])
        for step in range(num_steps):
            latents = solver.advance(step, velocity(latents, 1.0), latents)
        if name != "euler":
            assert solver.history()["_step_index"].item() == num_steps
        assert latents.isfinite().all()


@pytest.mark.parametrize("num_steps", [1, 4, 40])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_euler_makes_the_steps_of_diffusers_euler(num_steps: int, shift: float) -> None:
    solver = make_solver("euler", num_steps, shift)
    scheduler = make_scheduler("euler", num_steps, shift)
    ours = theirs = as_latents(VECTORS["start_latents"])
    for step, timestep in enumerate(scheduler.timesteps):
        torch.testing.assert_close(solver.timestep(step), timestep)
        ours = solver.advance(step, velocity(ours, 1.0), ours)
        theirs = scheduler.step(velocity(theirs, 1.0), timestep, theirs, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs)


def test_euler_has_the_timesteps_that_distilled_models_are_trained_for() -> None:
    """LightX2V's and Wan2.2-Lightning's four steps at shift 5; rounded ones are other steps."""
    solver = make_solver("euler", 4, 5.0)
    timesteps = [float(solver.timestep(step)) for step in range(4)]
    assert timesteps == pytest.approx([1000.0, 937.5, 833.3333, 625.0])


def test_the_prediction_of_the_clean_latents_is_the_end_of_a_straight_path() -> None:
    solver = make_solver("euler", 4, 5.0)
    noise, clean = torch.randn(1, 4, 2, 4, 4), torch.randn(1, 4, 2, 4, 4)
    latents = noise
    for step in range(4):
        latents = solver.advance(step, noise - clean, latents)
        torch.testing.assert_close(solver.estimate(), clean)
    torch.testing.assert_close(latents, clean)
