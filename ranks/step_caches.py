"""Makes the step cache that a job asks for."""

from broker.wire.job import JobSpec
from ranks.engine import Engine
from ranks.sampling.easycache import EasyCache
from ranks.sampling.phases import Phases
from ranks.sampling.residual_cache import ListedStepCache
from ranks.sampling.skip_lists import magcache_steps, teacache_steps
from ranks.sampling.solver import Solver
from ranks.sampling.step_cache import StepCache


def phases_of(engine: Engine, spec: JobSpec, solver: Solver) -> Phases:
    steps = range(solver.num_inference_steps)
    second = (step for step in steps if engine.family.expert(solver.timestep(step)))
    ends = spec.is_guided and spec.num_guided_steps < spec.infer_steps
    return Phases(
        num_steps=len(steps),
        boundary=next(second, None),
        guidance_end=spec.num_guided_steps if ends else None,
    )


def make_step_cache(
    engine: Engine, spec: JobSpec, phases: Phases, solver: Solver
) -> StepCache | None:
    """Return a new step cache; None if the job asks for none."""
    threshold = engine.shape.model.step_cache_threshold(spec)
    if threshold is None:
        return None
    if spec.step_cache == "easycache":
        return EasyCache(phases, threshold)
    # Rank 0 decides for all: no other rank needs the list.
    is_here = engine.world.rank == 0
    steps = _listed_steps(engine, spec, phases, solver, threshold) if is_here else []
    return ListedStepCache(phases, steps)


def _listed_steps(
    engine: Engine, spec: JobSpec, phases: Phases, solver: Solver, threshold: float
) -> list[int]:
    family = engine.family
    if spec.step_cache == "magcache":
        ratios = family.magcache_numbers(spec)
        assert ratios is not None, "the profile offers it"
        return magcache_steps(ratios, threshold, phases)
    coefficients = family.teacache_numbers(spec)
    assert coefficients is not None, "the profile offers it"
    timesteps = [solver.timestep(step) for step in range(phases.num_steps)]
    device = engine.device.torch_device
    modulations = [
        engine.models.transformers[family.expert(timestep)].modulation(timestep.to(device))
        for timestep in timesteps
    ]
    return teacache_steps(coefficients, threshold, phases, [each.cpu() for each in modulations])
