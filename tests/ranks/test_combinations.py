"""Every family on every layout, with sharded weights, split VAE and attention cache on and off.

The video is a portrait of 24 frames whose tokens no layout can share evenly: 245 of them, or 105
in TI2V-5B, whose sides are larger.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image
from torch import Tensor

from broker.wire.job import JobSpec
from broker.wire.model_profile import Family
from tests.ranks.conftest import DemoFolders, draw_image
from tests.ranks.rank_group import RankGroup
from tests.ranks.reference import load_reference, reference_frames

TOLERANCE = 1e-4
"""Largest difference of a decoded value, which lies between -1 and 1, in float32."""
CACHED_TOLERANCE = 3e-4
"""The same between two layouts with the attention cache: a step that reuses what an earlier one
computed reuses its rounding, too."""

SPEC = JobSpec(
    prompt="A small dog and a cat walk slowly at sunset.",
    negative_prompt="blurred, static",
    image_size="80*112",
    num_frames=24,
    infer_steps=10,
    seed=11,
    start_step=2,
    attentioncache_interval=3,
    end_step=8,
)
CHANGES: dict[Family, dict[str, Any]] = {
    "wan2.1-i2v": {},
    "wan2.1-flf2v": {"sample_shift": 16.0},
    "wan2.2-i2v-a14b": {"guidance_scale_2": 4.5},
    "wan2.2-ti2v-5b": {"image_size": "96*160"},
}
LAST_IMAGES: dict[Family, str] = {"wan2.1-flf2v": "last.png"}
BOUNDARY = 4
"""First step of the second transformer of A14B: with a shift of 5, 4 of 10 timesteps are 900 or
more. Without it, the cache would reuse step 2 there."""

LAYOUTS = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4)]

# (sharded, split, cached): every layout once, and every pair of switches in all four settings.
COVERING = {
    (1, 1): (True, True, True),
    (1, 2): (False, True, False),
    (1, 4): (True, False, False),
    (1, 8): (False, False, True),
    (2, 1): (True, True, False),
    (2, 2): (False, True, True),
    (2, 4): (True, False, True),
}
# What a family itself decides: its inputs, its VAE, its weights, its cache.
COVERING_FAMILY = {(1, 8): (False, True, False), (2, 4): (True, False, True)}


def is_covering(family: Family, layout: tuple[int, int], switches: tuple[bool, bool, bool]) -> bool:
    covering = COVERING if family == "wan2.1-i2v" else COVERING_FAMILY
    return covering.get(layout) == switches


COMBINATIONS = [
    pytest.param(
        family,
        *layout,
        *switches,
        marks=() if is_covering(family, layout, switches) else pytest.mark.full,
    )
    for family, layout, switches in product(CHANGES, LAYOUTS, product((False, True), repeat=3))
]


Expect = Callable[[bool], Tensor]


class Ranks:
    """Eight ranks with the demo model of one family at a time, and what they are compared with."""

    def __init__(self, folders: DemoFolders, new_folder: Callable[[str], Path]) -> None:
        self.folders = folders
        self._new_folder = new_folder
        self._stack = ExitStack()
        self._running: tuple[Family, RankGroup] | None = None
        self.expect = cache(self._expect)
        self.images = new_folder("images")
        draw_images(self.images)

    def group(self, family: Family) -> RankGroup:
        if self._running is None or self._running[0] != family:
            self.close()
            group = self._stack.enter_context(self._start(family, world_size=8))
            self._running = family, group
        return self._running[1]

    def close(self) -> None:
        self._stack.close()

    def run(self, family: Family, **changes: Any) -> Tensor:
        """Return the frames of a job."""
        return _frames(self.group(family), family, **changes)

    def _start(self, family: Family, world_size: int) -> RankGroup:
        group = RankGroup(self._new_folder("group"), self.folders(family), world_size=world_size)
        draw_images(group.inputs_dir)
        return group

    def _expect(self, family: Family, is_cached: bool) -> Tensor:
        """Return the stock pipeline's frames, or with the cache those of one rank."""
        if is_cached:
            with self._start(family, world_size=1) as alone:
                return _frames(alone, family, use_attentioncache=True)
        name = LAST_IMAGES.get(family)
        last = None if name is None else self.images / name
        pipeline = load_reference(self.folders(family))
        return reference_frames(pipeline, spec_of(family), self.images / "sample.png", last)


def _frames(
    group: RankGroup,
    family: Family,
    *,
    keep_step: int | None = None,
    is_resumed: bool = False,
    **changes: Any,
) -> Tensor:
    result = group.run(
        spec_of(family, **changes),
        last_image=LAST_IMAGES.get(family),
        keep_step=keep_step,
        is_resumed=is_resumed,
    )
    assert result.outcomes == {"done"}
    assert result.frames is not None
    return result.frames


def spec_of(family: Family, **changes: Any) -> JobSpec:
    return msgspec.structs.replace(SPEC, **CHANGES[family] | changes)


def draw_images(folder: Path) -> None:
    draw_image(folder / "sample.png")
    Image.open(folder / "sample.png").rotate(180).save(folder / "last.png")


@pytest.fixture(scope="module")
def ranks(demo_folders: DemoFolders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(demo_folders, tmp_path_factory.mktemp)
    yield ranks
    ranks.close()


@pytest.mark.parametrize(
    ("family", "cfg_size", "ulysses_size", "is_sharded", "is_split", "is_cached"), COMBINATIONS
)
def test_every_combination_makes_the_same_video(
    ranks: Ranks,
    family: Family,
    cfg_size: int,
    ulysses_size: int,
    is_sharded: bool,
    is_split: bool,
    is_cached: bool,
) -> None:
    found = ranks.run(
        family,
        cfg_size=cfg_size,
        ulysses_size=ulysses_size,
        dit_fsdp=is_sharded,
        t5_fsdp=is_sharded,
        vae_parallel=is_split,
        use_attentioncache=is_cached,
    )
    tolerance = CACHED_TOLERANCE if is_cached else TOLERANCE
    assert largest_difference(found, ranks.expect(family, is_cached)) <= tolerance


@pytest.mark.parametrize(
    ("family", "last_image", "reason"),
    [
        ("wan2.2-ti2v-5b", "last.png", "takes no last_image"),
        pytest.param("wan2.1-i2v", "last.png", "takes no last_image", marks=pytest.mark.full),
        pytest.param("wan2.1-flf2v", None, "needs last_image", marks=pytest.mark.full),
    ],
)
def test_a_last_image_that_does_not_fit_the_model_fails_the_job(
    ranks: Ranks, family: Family, last_image: str | None, reason: str
) -> None:
    """Diffusers ignores it in TI2V-5B without a word."""
    outcomes = ranks.group(family).run(spec_of(family), last_image=last_image).outcomes
    assert any(reason in outcome for outcome in outcomes), outcomes


@pytest.mark.parametrize(
    ("family", "step"),
    [
        pytest.param("wan2.1-flf2v", 5, marks=pytest.mark.full),
        ("wan2.2-ti2v-5b", 5),
        ("wan2.2-i2v-a14b", BOUNDARY),
        pytest.param("wan2.2-i2v-a14b", BOUNDARY + 3, marks=pytest.mark.full),
    ],
)
def test_a_run_resumed_with_a_cache_makes_identical_frames(
    ranks: Ranks, family: Family, step: int
) -> None:
    whole = ranks.run(family, use_attentioncache=True, keep_step=step)
    resumed = ranks.run(family, use_attentioncache=True, is_resumed=True)
    assert torch.equal(resumed, whole)


def test_the_second_transformer_has_its_own_guidance_and_may_have_none(ranks: Ranks) -> None:
    family: Family = "wan2.2-i2v-a14b"
    changed = ranks.run(family, guidance_scale_2=1.0)
    assert largest_difference(changed, ranks.expect(family, False)) > 10 * TOLERANCE
    one_branch = ranks.run(family, guidance_scale_2=1.0, cfg_size=1)
    assert largest_difference(changed, one_branch) <= TOLERANCE


def test_a_model_that_may_have_a_last_image_uses_it(ranks: Ranks) -> None:
    family: Family = "wan2.2-i2v-a14b"
    expected = reference_frames(
        load_reference(ranks.folders(family)),
        spec_of(family),
        ranks.images / "sample.png",
        ranks.images / "last.png",
    )
    found = ranks.group(family).run(spec_of(family), last_image="last.png").frames
    assert found is not None
    assert largest_difference(found, expected) <= TOLERANCE
    assert largest_difference(found, ranks.expect(family, False)) > 10 * TOLERANCE


def test_the_cache_changes_the_video(ranks: Ranks) -> None:
    with_cache, without = (ranks.expect("wan2.1-i2v", is_cached) for is_cached in (True, False))
    assert largest_difference(with_cache, without) > TOLERANCE


def largest_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())
