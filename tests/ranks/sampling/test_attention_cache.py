import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ranks.sampling.attention_cache import AttentionCache, CacheSchedule

CASES = json.loads((Path(__file__).parents[2] / "data" / "attention_cache.json").read_text())[
    "cases"
]
BRANCHES = (0, 1)
BLOCKS = (0, 1, 2)


def schedule_of(case: dict[str, Any]) -> CacheSchedule:
    return CacheSchedule(
        start=case["start_step"],
        interval=case["interval"],
        end=case["end_step"],
        num_inference_steps=case["num_steps"],
    )


def tag(step: int, branch: int, block: int) -> torch.Tensor:
    return torch.tensor([step, branch, block])


def run_step(cache: AttentionCache, step: int) -> set[int]:
    """Run one step; return the steps in which its attention outputs were computed."""
    sources = set()
    for branch in BRANCHES:
        for block in BLOCKS:
            output = cache.attend(step, branch, block, partial(tag, step, branch, block))
            source, of_branch, of_block = output.tolist()
            assert (of_branch, of_block) == (branch, block)
            sources.add(source)
    return sources


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"][:40])
def test_each_step_uses_the_attention_of_the_expected_step(
    case: dict[str, Any],
) -> None:
    expected = {int(step): {source} for step, source in case["reuse"].items()}
    with AttentionCache(schedule_of(case)) as cache:
        for step in range(case["num_steps"]):
            assert run_step(cache, step) == expected.get(step, {step})


@pytest.mark.parametrize(
    ("boundary", "computed"),
    [
        (None, {0, 1, 2, 5, 8, 9}),
        (4, {0, 1, 2, 4, 7, 9}),  # within an interval
        (5, {0, 1, 2, 5, 8, 9}),  # where attention is computed anyway
        (1, {0, 1, 2, 5, 8, 9}),  # before the window
        (9, {0, 1, 2, 5, 8, 9}),  # after it
    ],
)
def test_a_second_transformer_reuses_nothing_of_the_first(
    boundary: int | None, computed: set[int]
) -> None:
    starts = () if boundary is None else (boundary,)
    schedule = CacheSchedule(
        start=2, interval=3, end=8, num_inference_steps=10, phase_starts=starts
    )
    with AttentionCache(schedule) as cache:
        sources = {step: run_step(cache, step) for step in range(10)}
    assert {step for step, source in sources.items() if source == {step}} == computed
    if boundary is not None:
        assert all(min(source) >= boundary for step, source in sources.items() if step >= boundary)
        assert schedule.can_begin_at(boundary)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"][:40])
def test_outputs_are_kept_only_until_their_last_reuse(
    case: dict[str, Any],
) -> None:
    schedule = schedule_of(case)
    reused = [int(step) for step in case["reuse"]]
    assert schedule.last_reuse == max(reused, default=-1)
    with AttentionCache(schedule) as cache:
        for step in range(case["num_steps"]):
            run_step(cache, step)
            is_in_use = case["start_step"] <= step < schedule.last_reuse
            expected = len(BRANCHES) * len(BLOCKS) * tag(0, 0, 0).nbytes if is_in_use else 0
            assert cache.num_bytes == expected


def test_a_failed_run_frees_its_kept_outputs() -> None:
    cache = AttentionCache(CacheSchedule(start=0, interval=3, end=5, num_inference_steps=7))

    def fail_after_the_first_step() -> None:
        with cache:
            run_step(cache, 0)
            assert cache.num_bytes > 0
            raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError, match="cancelled"):
        fail_after_the_first_step()
    assert cache.num_bytes == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"][:40])
def test_a_run_resumed_at_an_allowed_step_reuses_the_same_steps(case: dict[str, Any]) -> None:
    schedule = schedule_of(case)
    expected = {int(step): {source} for step, source in case["reuse"].items()}
    beginnings = [step for step in range(case["num_steps"]) if schedule.can_begin_at(step)]
    assert set(range(case["num_steps"])) - set(beginnings) == set(expected)
    for beginning in beginnings:
        with AttentionCache(schedule) as cache:
            for step in range(beginning, case["num_steps"]):
                assert run_step(cache, step) == expected.get(step, {step})


@pytest.mark.parametrize(
    ("field", "value"), [("start", -1), ("interval", 0), ("end", 0), ("num_inference_steps", 0)]
)
def test_a_number_out_of_range_is_named(field: str, value: int) -> None:
    numbers: dict[str, Any] = {"start": 1, "interval": 3, "end": 5, "num_inference_steps": 7}
    with pytest.raises(ValueError, match=f"{field} {value}"):
        CacheSchedule(**numbers | {field: value})
