"""The steps that MagCache and TeaCache skip, from numbers published for a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ranks.sampling.phases import Phases


@dataclass(frozen=True, kw_only=True)
class MagCacheNumbers:
    """What MagCache needs to know of a model.

    Args:
        ratios: How large the blocks' residual of each step is, over that of the step before;
            measured with as many steps as there are ratios.
        max_in_a_row: Steps that may be skipped one after the other.
        retention: Share of each transformer's steps, from its first, that are always computed.
    """

    ratios: tuple[float, ...]
    max_in_a_row: int
    retention: float


@dataclass(frozen=True, kw_only=True)
class TeaCacheNumbers:
    """What TeaCache needs to know of a model.

    Args:
        coefficients: Of the polynomial that turns the change of the blocks' modulation into that
            of their output, highest power first.
        num_first: Steps of each transformer, from its first, that are always computed.
    """

    coefficients: tuple[float, ...]
    num_first: int


def magcache_steps(numbers: MagCacheNumbers, threshold: float, phases: Phases) -> list[int]:
    """Return the steps to skip.

    Args:
        numbers: Those of the model.
        threshold: Relative error that the steps skipped in a row may add up to.
        phases: Phases of the run.

    Source:
        MagCache, `MagCache4Wan2.1/magcache_generate.py`.
    """
    ratios = _resampled(numbers.ratios, phases.num_steps)
    skipped: list[int] = []
    ratio, error, num_in_a_row = 1.0, 0.0, 0
    for step in range(phases.num_steps):
        steps = phases.steps_of_transformer(step)
        if step in phases.starts or _is_retained(step, steps, numbers.retention):
            ratio, error, num_in_a_row = 1.0, 0.0, 0
            continue
        ratio *= ratios[step]
        error += abs(1.0 - ratio)
        num_in_a_row += 1
        if error < threshold and num_in_a_row <= numbers.max_in_a_row:
            skipped.append(step)
        else:
            ratio, error, num_in_a_row = 1.0, 0.0, 0
    return skipped


def teacache_steps(
    numbers: TeaCacheNumbers, threshold: float, phases: Phases, modulations: Sequence[Tensor]
) -> list[int]:
    """Return the steps to skip.

    Args:
        numbers: Those of the model.
        threshold: Predicted change that the steps skipped in a row may add up to.
        phases: Phases of the run.
        modulations: The blocks' modulation in each step, float32, all of one shape.

    Source:
        TeaCache, `TeaCache4Wan2.1/teacache_generate.py`, with `use_ret_steps`.
    """
    skipped: list[int] = []
    change = 0.0
    for step in range(1, phases.num_steps):
        before, now = modulations[step - 1], modulations[step]
        first = phases.steps_of_transformer(step).start
        if step in phases.starts or step < first + numbers.num_first:
            change = 0.0
            continue
        relative = float((now - before).abs().mean() / before.abs().mean())
        change += float(np.polyval(numbers.coefficients, relative))
        if change < threshold:
            skipped.append(step)
        else:
            change = 0.0
    return skipped


def _is_retained(step: int, steps: range, retention: float) -> bool:
    # A little less, because a product such as 35 * 0.2 is a little more than 7.
    return step < steps.start + math.ceil(len(steps) * retention - 1e-9)


def _resampled(ratios: tuple[float, ...], num_steps: int) -> list[float]:
    """Return one ratio for each step: that of the nearest measured step."""
    spread = (len(ratios) - 1) / max(num_steps - 1, 1)
    return [ratios[round(step * spread)] for step in range(num_steps)]
