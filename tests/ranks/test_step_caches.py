"""Step caches and the end of guidance on two real ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from broker.wire.job import JobSpec, StepCacheName
from ranks.device import open_device
from ranks.model.weights import load_transformer
from ranks.model_files.opened_model import open_model
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.rank_group import RankGroup
from tests.ranks.reference import load_reference, reference_frames

TOLERANCE = 1e-4
"""Largest difference of a decoded value, which lies between -1 and 1, in float32."""

SPEC = JobSpec(
    prompt="A small dog and a cat walk slowly at sunset.",
    negative_prompt="blurred, static",
    image_size="64*80",
    num_frames=5,
    infer_steps=14,
    seed=11,
)
CACHES: dict[StepCacheName, str | None] = {
    "easycache": None,
    "magcache": None,
    # The time embedding of the demo is random: no two steps have a similar one.
    "teacache": "tests.ranks.step_cache_patches:calm",
}
LAYOUTS = [(2, 1), (1, 2), (1, 1)]
"""Sizes on two ranks; the last is two replicas."""

GUIDANCE_END = 0.4
"""The first 6 of 14 steps are guided."""


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
            patch=CACHES[cache],
        )
        for cfg_size, ulysses_size in LAYOUTS
    ]
    (expected, skipped), *others = jobs
    assert skipped
    for frames, their_skipped in others:
        assert their_skipped == skipped
        assert largest_difference(frames, expected) <= TOLERANCE
    assert largest_difference(pair.run()[0], expected) > TOLERANCE


def test_a_step_cache_that_skips_nothing_changes_no_bit(pair: Pair) -> None:
    plain, _ = pair.run()
    for cache in CACHES:
        frames, skipped = pair.run(step_cache=cache, step_cache_threshold=0.0)
        assert not skipped
        assert torch.equal(frames, plain)


@pytest.mark.parametrize("cache", ["easycache", "magcache"])
def test_ranks_that_would_decide_otherwise_follow_rank_0(pair: Pair, cache: StepCacheName) -> None:
    """Ranks that disagreed would wait for each other forever."""
    job: dict[str, Any] = {"step_cache": cache, "step_cache_threshold": 0.4, "ulysses_size": 2}
    expected, skipped = pair.run(**job)
    frames, others = pair.run(**job, patch="tests.ranks.step_cache_patches:opposed:1")
    assert others == skipped
    assert torch.equal(frames, expected)


@pytest.mark.parametrize(("cache", "is_skipped_next"), [("easycache", True), ("magcache", False)])
def test_a_run_resumed_with_a_step_cache_makes_identical_frames(
    pair: Pair, cache: StepCacheName, is_skipped_next: bool
) -> None:
    job: dict[str, Any] = {"step_cache": cache, "step_cache_threshold": 0.4}
    step = 12 if is_skipped_next else 9
    expected, skipped = pair.run(**job, keep_step=step)
    assert (step in skipped) == is_skipped_next
    frames, resumed_skipped = pair.run(**job, is_resumed=True)
    assert resumed_skipped == skipped
    assert torch.equal(frames, expected)


@pytest.fixture(scope="module")
def guided_then_not(pair: Pair, demo_folder: Path) -> Tensor:
    spec = msgspec.structs.replace(SPEC, guidance_end=GUIDANCE_END)
    return reference_frames(load_reference(demo_folder), spec, pair.inputs_dir / "sample.png")


@pytest.mark.parametrize(("cfg_size", "ulysses_size"), LAYOUTS)
def test_guidance_that_ends_equals_the_stock_pipeline_without_guidance_from_there_on(
    pair: Pair, guided_then_not: Tensor, cfg_size: int, ulysses_size: int
) -> None:
    frames, _ = pair.run(guidance_end=GUIDANCE_END, cfg_size=cfg_size, ulysses_size=ulysses_size)
    assert largest_difference(frames, guided_then_not) <= TOLERANCE


def test_guidance_that_ends_changes_the_video(pair: Pair, guided_then_not: Tensor) -> None:
    assert largest_difference(pair.run()[0], guided_then_not) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (5, {}),
        (7, {}),
        (6, {"use_attentioncache": True, "start_step": 2, "end_step": 12}),
        (5, {"step_cache": "easycache"}),
    ],
)
def test_a_run_resumed_around_the_end_of_guidance_makes_identical_frames(
    pair: Pair, step: int, changes: dict[str, Any]
) -> None:
    job = {"guidance_end": GUIDANCE_END} | changes
    expected, _ = pair.run(**job, keep_step=step)
    assert torch.equal(pair.run(**job, is_resumed=True)[0], expected)


@pytest.mark.parametrize(
    "cache",
    [
        {"use_attentioncache": True, "start_step": 2, "attentioncache_interval": 5},
        {"step_cache": "magcache", "step_cache_threshold": 0.4},
    ],
)
def test_a_cache_reuses_nothing_of_the_guided_steps_once_guidance_ends(
    pair: Pair, cache: dict[str, Any]
) -> None:
    """The ranks hold other shards then, if both branches were computed apart."""
    job = {"guidance_end": GUIDANCE_END} | cache
    apart, _ = pair.run(**job, cfg_size=2, ulysses_size=1)
    together, _ = pair.run(**job, cfg_size=1, ulysses_size=1)
    assert largest_difference(apart, together) <= TOLERANCE


def test_the_modulation_is_that_of_the_blocks(demo_folder: Path) -> None:
    files = open_model(demo_folder)
    cpu = open_device("cpu", 0, 1)
    transformer = load_transformer(files.components["transformer"], cpu, None)
    timestep = torch.tensor(700)
    with torch.inference_mode():
        _, expected = transformer._embed_time(timestep.unsqueeze(0))
        torch.testing.assert_close(transformer.modulation(timestep), expected.flatten(1))


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
