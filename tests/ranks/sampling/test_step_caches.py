"""The decisions of the step caches, and what a skipped step computes, against plain references."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ranks.sampling.easycache import EasyCache
from ranks.sampling.phases import Phases
from ranks.sampling.published_numbers import (
    MAGCACHE_A14B,
    MAGCACHE_I2V_480P,
    MAGCACHE_I2V_720P,
    MAGCACHE_TI2V_5B,
    TEACACHE_I2V_720P,
)
from ranks.sampling.residual_cache import ListedStepCache, Residuals
from ranks.sampling.skip_lists import MagCacheNumbers, magcache_steps, teacache_steps
from ranks.sampling.solver import Solver, make_solver
from ranks.sampling.step_cache import StepCache

NUM_STEPS = 40
SHAPE = (1, 4, 3, 8, 8)


def field(step: int, latents: Tensor) -> Tensor:
    """Return a smooth velocity that changes more in later steps."""
    return latents * 0.5 + torch.sin(latents + 0.004 * step * step)


class Plain:
    """A run with a step cache, decided as one rank alone would."""

    def __init__(self, cache: StepCache, num_steps: int = NUM_STEPS) -> None:
        self.cache = cache
        self.solver: Solver = make_solver("euler", num_steps, 5.0)
        self.latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
        self.step = 0
        self.computed: list[int] = []

    def advance(self, velocity_of: Callable[[int, Tensor], Tensor] = field) -> None:
        def predict() -> Tensor:
            self.computed.append(self.step)
            return velocity_of(self.step, self.latents)

        velocity = self.cache.velocity(self.step, self.latents, predict)
        self.latents = self.solver.advance(self.step, velocity, self.latents)
        self.step += 1
        self.cache.is_skipping = self.cache.wants_to_skip(self.step, self.latents)

    def finish(self, velocity_of: Callable[[int, Tensor], Tensor] = field) -> Tensor:
        while self.step < self.solver.num_inference_steps:
            self.advance(velocity_of)
        return self.latents


def reference_easycache(
    threshold: float, scale: float, branches: Callable[[int, Tensor], tuple[Tensor, Tensor]]
) -> tuple[list[int], Tensor]:
    """EasyCache with a residual for each branch; return the computed steps and the latents.

    As in the published code, but for the metric, which is that of the guided velocity.
    """
    solver = make_solver("euler", NUM_STEPS, 5.0)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    computed: list[int] = []
    x_before = x_full = v_full = None
    k = None
    error = 0.0
    residuals: list[Tensor] = []
    for step in range(NUM_STEPS):
        is_full = True
        if 10 <= step < NUM_STEPS - 1 and k is not None:
            assert x_before is not None
            assert v_full is not None
            error += k * float((x - x_before).abs().mean()) / float(v_full.abs().mean())
            is_full = not error < threshold
        x_before = x
        if is_full:
            outputs = branches(step, x)
            computed.append(step)
            error = 0.0
            guided = outputs[1] + scale * (outputs[0] - outputs[1])
            if v_full is not None and x_full is not None:
                change = float((guided - v_full).abs().mean())
                k = change / float((x - x_full).abs().mean())
            x_full, v_full = x, guided
            residuals = [output - x for output in outputs]
        conditional, unconditional = (x + residual for residual in residuals)
        velocity = unconditional + scale * (conditional - unconditional)
        x = solver.advance(step, velocity, x)
    return computed, x


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.2])
def test_easycache_on_the_guided_velocity_equals_easycache_on_each_branch(
    threshold: float,
) -> None:
    def branches(step: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return field(step, x), field(step, 0.9 * x)

    def guided(step: int, x: Tensor) -> Tensor:
        conditional, unconditional = branches(step, x)
        return unconditional + 3.0 * (conditional - unconditional)

    run = Plain(EasyCache(Phases(num_steps=NUM_STEPS), threshold))
    found = run.finish(guided)
    computed, expected = reference_easycache(threshold, 3.0, branches)
    assert run.computed == computed
    assert list(run.cache.skipped_steps) == sorted(set(range(NUM_STEPS)) - set(computed))
    assert (len(computed) < NUM_STEPS) == (threshold > 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_easycache_with_a_threshold_of_zero_changes_no_bit() -> None:
    solver = make_solver("euler", NUM_STEPS, 5.0)
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    for step in range(NUM_STEPS):
        latents = solver.advance(step, field(step, latents), latents)
    assert torch.equal(Plain(EasyCache(Phases(num_steps=NUM_STEPS), 0.0)).finish(), latents)


@pytest.mark.parametrize("step", range(1, NUM_STEPS))
def test_easycache_resumed_at_any_step_goes_on_with_the_same_bits(step: int) -> None:
    phases = Phases(num_steps=NUM_STEPS, guidance_end=30)
    uninterrupted = Plain(EasyCache(phases, 0.1))
    expected = uninterrupted.finish()
    whole = Plain(EasyCache(phases, 0.1))
    while whole.step < step:
        whole.advance()
    resumed = Plain(EasyCache(phases, 0.1))
    resumed.cache.restore(whole.cache.state())
    resumed.step, resumed.latents = whole.step, whole.latents
    assert torch.equal(resumed.finish(), expected)
    assert resumed.cache.skipped_steps == uninterrupted.cache.skipped_steps
    assert uninterrupted.cache.skipped_steps


def test_easycache_never_skips_the_first_and_last_steps_of_a_transformer() -> None:
    phases = Phases(num_steps=NUM_STEPS, boundary=15, guidance_end=32)
    run = Plain(EasyCache(phases, 1e9))
    run.finish()
    # After a start, two steps must be computed before their proportion is known.
    assert set(run.cache.skipped_steps) == {*range(10, 14), *range(25, 32), *range(34, 39)}


@pytest.mark.parametrize(
    ("numbers", "threshold", "phases"),
    [
        (MAGCACHE_I2V_480P, 0.24, Phases(num_steps=40)),
        (MAGCACHE_I2V_720P, 0.24, Phases(num_steps=40)),
        (MAGCACHE_I2V_720P, 0.12, Phases(num_steps=30)),
        (MAGCACHE_TI2V_5B, 0.06, Phases(num_steps=50)),
        (MAGCACHE_A14B, 0.06, Phases(num_steps=40, boundary=15)),
    ],
)
def test_magcache_never_exceeds_its_threshold_nor_its_steps_in_a_row(
    numbers: MagCacheNumbers, threshold: float, phases: Phases
) -> None:
    skipped = magcache_steps(numbers, threshold, phases)
    assert skipped
    in_a_row = 0
    for step in range(phases.num_steps):
        in_a_row = in_a_row + 1 if step in skipped else 0
        assert in_a_row <= numbers.max_in_a_row
    begin = phases.steps_of_transformer(phases.num_steps - 1).start
    assert not set(skipped) & {*range(1), begin, begin + 1}


@pytest.mark.parametrize("guidance_end", range(1, 40))
def test_magcache_computes_the_first_step_without_guidance(guidance_end: int) -> None:
    phases = Phases(num_steps=40, guidance_end=guidance_end)
    assert guidance_end not in magcache_steps(MAGCACHE_I2V_480P, 0.24, phases)


VECTORS = json.loads((Path(__file__).parents[2] / "data" / "step_caches.json").read_text())


@pytest.mark.parametrize("case", VECTORS["magcache"], ids=lambda case: case["note"])
def test_magcache_skips_the_steps_that_the_published_code_skips(case: dict[str, Any]) -> None:
    numbers = {"480P": MAGCACHE_I2V_480P, "720P": MAGCACHE_I2V_720P, "5B": MAGCACHE_TI2V_5B}
    phases = Phases(num_steps=case["num_steps"])
    found = magcache_steps(numbers[case["model"]], case["threshold"], phases)
    assert found == case["skipped"]


def test_teacache_computes_where_the_predicted_change_reaches_the_threshold() -> None:
    size = torch.cumprod(torch.full((12,), 1.1), 0)  # each is 0.1 larger than that before
    modulations = [torch.full((6, 8), float(value)) for value in size]
    change = sum(c * 0.1 ** (4 - power) for power, c in enumerate(TEACACHE_I2V_720P.coefficients))
    threshold = 2.5 * change
    phases = Phases(num_steps=12)
    found = teacache_steps(TEACACHE_I2V_720P, threshold, phases, modulations)
    assert found == [5, 6, 8, 9, 11]
    halved = Phases(num_steps=12, guidance_end=6)
    assert teacache_steps(TEACACHE_I2V_720P, threshold, halved, modulations) == [5, 7, 8, 10, 11]


def test_a_residual_is_reused_for_its_own_branch_until_the_next_computed_step() -> None:
    cache = ListedStepCache(Phases(num_steps=6, guidance_end=4), [1, 3, 5])
    found: list[list[float]] = []

    def predict(step: int) -> Tensor:
        outputs = [torch.tensor([100.0 * (step + 1) + branch]) for branch in range(1 + (step < 4))]
        hidden = torch.tensor([float(step)])
        values = cache.residuals.pass_blocks(hidden, lambda: outputs)
        found.append([value.item() for value in values])
        return torch.zeros(1)

    for step in range(6):
        cache.velocity(step, torch.zeros(1), partial(predict, step))
        cache.is_skipping = cache.wants_to_skip(step + 1, torch.zeros(1))
        assert cache.can_begin_here == (step + 1 not in (1, 3, 5))
    cache.residuals.clear()
    assert found == [[100, 101], [101, 102], [300, 301], [301, 302], [500], [501]]
    with pytest.raises(AssertionError):
        reusing(cache.residuals)


def reusing(residuals: Residuals) -> list[Tensor]:
    residuals.is_reusing = True
    return residuals.pass_blocks(torch.zeros(1), list)
