"""Step caches and the end of guidance on two real ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from broker.wire.job import JobSpec, StepCacheName
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.rank_group import RankGroup
from tests.ranks.reference import load_reference, reference_frames

TOLERANCE = 1e-4
"""Largest difference of a decoded value, which lies between -1 and 1, in float32."""

SPEC = JobSpec(
    prompt="A small dog and a cat walk slowly at sunset.",
    negative_prompt="blurred, static",
    image_size="64*80",
    num_frames=24,
    infer_steps=20,
    seed=11,
)
CACHES: list[StepCacheName] = ["easycache", "magcache", "teacache"]
LAYOUTS = [(2, 1), (1, 2), (1, 1)]
"""Guidance branches and sequence over two ranks; the last is two replicas of one rank."""


class Pair:
    """Two ranks with a demo model."""

    def __init__(self, group: RankGroup) -> None:
        self.inputs_dir = group.inputs_dir
        self._group = group

    def run(
        self,
        *,
        keep_step: int | None = None,
        is_resumed: bool = False,
        patch: str | None = None,
        **changes: Any,
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Return the frames of a job, and the steps that every rank has skipped."""
        spec = msgspec.structs.replace(SPEC, **changes)
        result = self._group.run(spec, keep_step=keep_step, is_resumed=is_resumed, patch=patch)
        assert result.outcomes == {"done"}
        assert result.frames is not None
        return result.frames, result.reports[0].skipped_steps


@pytest.fixture(scope="module")
def pair(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with RankGroup(tmp_path_factory.mktemp("pair"), demo_folder, world_size=2) as group:
        draw_image(group.inputs_dir / "sample.png")
        yield Pair(group)


@pytest.mark.parametrize("cache", CACHES)
def test_a_step_cache_skips_the_same_steps_on_every_layout_and_makes_the_same_video(
    pair: Pair, cache: StepCacheName
) -> None:
    # The demo's steps differ more than those of a trained model.
    jobs = [
        pair.run(
            step_cache=cache,
            step_cache_threshold=0.4,
            cfg_size=cfg_size,
            ulysses_size=ulysses_size,
            dit_fsdp=(cfg_size, ulysses_size) == (1, 2),
        )
        for cfg_size, ulysses_size in LAYOUTS
    ]
    (expected, skipped), *others = jobs
    assert skipped
    for frames, their_skipped in others:
        assert their_skipped == skipped
        assert largest_difference(frames, expected) <= TOLERANCE
    assert largest_difference(pair.run()[0], expected) > TOLERANCE


@pytest.mark.parametrize("cache", CACHES)
def test_a_step_cache_that_skips_nothing_changes_no_bit(pair: Pair, cache: StepCacheName) -> None:
    frames, skipped = pair.run(step_cache=cache, step_cache_threshold=0.0)
    assert not skipped
    assert torch.equal(frames, pair.run()[0])


@pytest.mark.parametrize("cache", CACHES)
def test_ranks_that_would_decide_otherwise_follow_rank_0(pair: Pair, cache: StepCacheName) -> None:
    """Ranks that disagreed would wait for each other forever."""
    job: dict[str, Any] = {"step_cache": cache, "step_cache_threshold": 0.4, "ulysses_size": 2}
    expected, skipped = pair.run(**job)
    frames, with_opposition = pair.run(**job, patch="tests.ranks.opposed_votes:opposed:1")
    assert with_opposition == skipped
    assert torch.equal(frames, expected)


@pytest.mark.parametrize(("cache", "is_skipped_next"), [("easycache", True), ("magcache", False)])
def test_a_run_resumed_with_a_step_cache_makes_identical_frames(
    pair: Pair, cache: StepCacheName, is_skipped_next: bool
) -> None:
    job: dict[str, Any] = {"step_cache": cache, "step_cache_threshold": 0.4}
    expected, skipped = pair.run(**job)
    step = max(step for step in range(20) if (step in skipped) == is_skipped_next)
    pair.run(**job, keep_step=step)
    frames, resumed_skipped = pair.run(**job, is_resumed=True)
    assert resumed_skipped == skipped
    assert torch.equal(frames, expected)


@pytest.mark.parametrize(("cfg_size", "ulysses_size"), LAYOUTS)
def test_guidance_that_ends_equals_the_stock_pipeline_without_guidance_from_there_on(
    pair: Pair, demo_folder: Path, cfg_size: int, ulysses_size: int
) -> None:
    spec = msgspec.structs.replace(SPEC, guidance_end=0.4)
    expected = reference_frames(load_reference(demo_folder), spec, pair.inputs_dir / "sample.png")
    frames, _ = pair.run(guidance_end=0.4, cfg_size=cfg_size, ulysses_size=ulysses_size)
    assert largest_difference(frames, expected) <= TOLERANCE
    assert largest_difference(pair.run()[0], expected) > 10 * TOLERANCE


@pytest.mark.parametrize("step", [7, 8, 9])
def test_a_run_resumed_around_the_end_of_guidance_makes_identical_frames(
    pair: Pair, step: int
) -> None:
    job = {"guidance_end": 0.4, "use_attentioncache": True, "start_step": 2, "end_step": 7}
    expected, _ = pair.run(**job)
    pair.run(**job, keep_step=step)
    assert torch.equal(pair.run(**job, is_resumed=True)[0], expected)


def test_a_cache_reuses_nothing_of_the_guided_steps_once_guidance_ends(pair: Pair) -> None:
    """The ranks hold other shards then, if both branches were computed apart."""
    kept = {"use_attentioncache": True, "start_step": 2, "attentioncache_interval": 5}
    for job in (kept, {"step_cache": "magcache", "step_cache_threshold": 0.4}):
        frames, _ = pair.run(guidance_end=0.4, **job, cfg_size=2, ulysses_size=1)
        alone, _ = pair.run(guidance_end=0.4, **job, cfg_size=1, ulysses_size=1)
        assert largest_difference(frames, alone) <= TOLERANCE


@pytest.mark.full
@pytest.mark.parametrize("cache", ["easycache", "magcache"])
def test_a_second_transformer_reuses_nothing_of_the_first(
    demo_folders: DemoFolders, tmp_path: Path, cache: StepCacheName
) -> None:
    job: dict[str, Any] = {"step_cache": cache, "step_cache_threshold": 0.4, "infer_steps": 40}
    with RankGroup(tmp_path, demo_folders("wan2.2-i2v-a14b"), world_size=2) as group:
        draw_image(group.inputs_dir / "sample.png")
        ranks = Pair(group)
        frames, skipped = ranks.run(**job, guidance_scale_2=4.5)
        others, others_skipped = ranks.run(**job, guidance_scale_2=4.5, cfg_size=1)
    assert skipped == others_skipped
    assert 15 not in skipped  # the first step of the second transformer, of 40 with a shift of 5
    assert {step < 15 for step in skipped} == {True, False}
    assert largest_difference(frames, others) <= TOLERANCE


def largest_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())
